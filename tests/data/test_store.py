"""A store gives the same batches as its folder of cases, and reports whatever is lost, torn or damaged."""

import multiprocessing
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from dsdiff.data import assemble_cohort, build_store, hdf5_slices, store, store_case
from dsdiff.data.dataloader import TrainingBatches, prefetch_batches
from dsdiff.data.settings import DataConfig
from dsdiff.data.store import StoreSettings
from dsdiff.errors import CaseError, ConfigError, InputError, OutputError
from dsdiff.io.cases import discover_cases, load_volumes
from dsdiff.preprocessing import normalize
from dsdiff.reporting import contact_sheet
from dsdiff.system.atomic import exclusive_lock
from tests.toy_data import write_case

DATA = DataConfig(crop=(32, 48))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Three cases and their store, for tests that change neither."""
    folder = tmp_path_factory.mktemp("original")
    for seed in range(3):
        write_case(folder / "cohort", f"P{seed}", seed)
    report = prepare(folder)
    assert (report.prepared, report.unchanged, report.failed) == (("P0", "P1", "P2"), (), {})
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy of cases and store, for tests that change them."""
    return shutil.copytree(original, tmp_path / "copy")


def prepare(folder, workers=1):
    return build_store.prepare_cases(folder / "cohort", folder / "store", StoreSettings(), workers)


def modification_times(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "store" / store.CASES_FOLDER).iterdir()}


def make_batches(root, **changes):
    data = DATA.model_copy(update={"root": root, **changes})
    cohort = assemble_cohort.assemble_cohort(data, "linear" if data.target_style == "own" else "none")
    return TrainingBatches(data, 3, 4, cohort.training)


def are_equal(a, b):
    fields = ["sources", "target", "region", "present", "style_image"]
    fields = [field for field in fields if getattr(a, field) is not None]
    same_tensors = all(torch.equal(getattr(a, field), getattr(b, field)) for field in fields)
    return a.case_names == b.case_names and same_tensors


@pytest.mark.parametrize(
    "changes", [{}, {"target_style": "average"}, {"contrasts": ("flair", "t1"), "context_slices": 5}]
)
def test_a_store_gives_the_batches_of_its_folder(original, changes):
    from_folder, from_store = (make_batches(original / name, **changes) for name in ("cohort", "store"))
    assert all(are_equal(from_folder.load_step(step), from_store.load_step(step)) for step in range(3))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_read_a_store_that_the_main_process_read_before(original, workers):
    batches = make_batches(original / "store")
    expected = [batches.load_step(step) for step in range(4)]
    assert all(map(are_equal, expected, prefetch_batches(batches, 0, 4, workers)))


def test_stored_slices_equal_the_z_scores_in_half_precision(original):
    (case, *_) = discover_cases(original / "cohort")
    z_scores = normalize.preprocess(load_volumes(case, ("t1", "t1ce"))).case.images["t1ce"]
    path = store.case_path(original / "store", "P0")
    stored = hdf5_slices.read_arrays(path, {"t1ce": slice(None)})["t1ce"].astype(np.float32)
    assert np.sort(stored[stored != 0]) == pytest.approx(np.sort(z_scores[z_scores != 0]), rel=2**-11)


def test_a_stopped_preparation_continues(folder, monkeypatch):
    shutil.rmtree(folder / "store")
    prepare_case, finished = store_case.prepare_case, []

    def stop_after_two(case, record, **options):
        if len(finished) == 2:
            raise KeyboardInterrupt
        finished.append(case.name)
        return prepare_case(case, record, **options)

    monkeypatch.setattr(store_case, "prepare_case", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder)
    times = modification_times(folder)
    monkeypatch.setattr(store_case, "prepare_case", prepare_case)
    report = prepare(folder)
    assert (report.prepared, report.unchanged) == (("P2",), ("P0", "P1"))
    assert times.items() <= modification_times(folder).items()


@pytest.mark.parametrize("fraction", [0.3, 0.99])
def test_a_partly_written_record_does_not_count(folder, fraction):
    path = folder / "store" / store.RECORDS_NAME
    first, second, third = path.read_text().splitlines(keepends=True)
    path.write_text(first + second + third[: int(fraction * len(third))])
    assert list(store.open_store(folder / "store").records) == ["P0", "P1"]
    report = prepare(folder)
    assert (report.prepared, report.unchanged) == (("P2",), ("P0", "P1"))
    assert path.read_text() == first + second + third


def test_only_new_and_changed_cases_are_prepared(folder):
    write_case(folder / "cohort", "P3", 3)
    shutil.rmtree(folder / "cohort" / "P1")
    write_case(folder / "cohort", "P1", 7)
    old_times, old_hash = modification_times(folder), store.open_store(folder / "store").hash
    report = prepare(folder, workers=2)
    assert (report.prepared, report.unchanged) == (("P1", "P3"), ("P0", "P2"))
    times = modification_times(folder)
    assert {name for name in old_times if times[name] == old_times[name]} == {"P0.h5", "P2.h5"}
    assert store.open_store(folder / "store").hash != old_hash
    assert not list((folder / "store").rglob("*.partial"))


def test_a_changed_case_that_fails_leaves_the_store(folder):
    cohort = folder / "cohort"
    (cohort / "P1" / "P1_t2.nii.gz").write_bytes(b"no image")
    shutil.copy(cohort / "P2" / "P2_t1.nii.gz", cohort / "P2" / "P2_t2.nii.gz")
    report = prepare(folder)
    assert (report.prepared, report.unchanged, list(report.failed)) == ((), ("P0",), ["P1", "P2"])
    assert "one contrast is a copy of another" in report.failed["P2"]
    assert list(store.open_store(folder / "store").records) == ["P0"]
    assert list(modification_times(folder)) == ["P0.h5"]


def test_a_temporarily_unreadable_file_does_not_change_the_store(folder):
    t1, backup = folder / "cohort" / "P1" / "P1_t1.nii.gz", folder / "backup.nii.gz"
    t1.rename(backup)
    t1.symlink_to(folder / "nowhere.nii.gz")
    report = prepare(folder)
    assert list(report.failed) == ["P1"]
    assert list(store.open_store(folder / "store").records) == ["P0", "P1", "P2"]
    t1.unlink()
    backup.rename(t1)
    assert prepare(folder).unchanged == ("P0", "P1", "P2")


@pytest.mark.parametrize(
    ("contrasts", "message"), [("t1,flare", "flare"), ("t1,t2,t1", "twice"), ("t1,t1ce", "target")]
)
def test_settings_that_no_training_can_use_are_refused(folder, cli, contrasts, message):
    code, output = cli("prepare", folder / "cohort", folder / "new", "--contrasts", contrasts)
    assert (code, message in output, (folder / "new").exists()) == (2, True, False)


def test_a_missing_case_is_named_and_removed_by_prune(folder, cli):
    shutil.rmtree(folder / "cohort" / "P1")
    code, output = cli("prepare", folder / "cohort", folder / "store")
    assert code == 0
    assert "in the store, but no longer in the folder: P1 (--prune removes them)" in output
    assert list(store.open_store(folder / "store").records) == ["P0", "P1", "P2"]
    code, output = cli("prepare", folder / "cohort", folder / "store", "--prune")
    assert (code, "P1" in output) == (0, False)
    assert list(store.open_store(folder / "store").records) == ["P0", "P2"]
    assert sorted(modification_times(folder)) == ["P0.h5", "P2.h5"]


def test_features_of_a_store_cover_only_the_contrasts_of_the_config(original):
    data = DATA.model_copy(update={"contrasts": ("t1", "t2"), "target": "t1ce"})
    from_store, from_folder = (assemble_cohort.read_patients(original / name, data) for name in ("store", "cohort"))
    for stored_patient, patient in zip(from_store, from_folder, strict=True):
        assert stored_patient.features.keys() == patient.features.keys()
        for group, features in stored_patient.features.items():
            assert features == pytest.approx(patient.features[group])


def test_a_damaged_case_file_is_named_and_repaired(folder):
    path = store.case_path(folder / "store", "P1")
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"^[^\n]*P1\.h5 is damaged .* makes it anew$") as raised:
            list(prefetch_batches(make_batches(folder / "store"), 0, 30, workers))
        assert raised.tb is not None  # the error is kept, and its workers have ended all the same
        assert not multiprocessing.active_children()
    with pytest.raises(InputError, match=r"P1\.h5 is damaged .* makes it anew"):
        for patient in store.open_store(folder / "store").load_patients(DATA.contrasts, "t1ce", "t1"):
            patient.slices.load_all()
    assert prepare(folder).prepared == ("P1",)
    assert path.read_bytes() == content
    path.write_bytes(content[:-100])
    with pytest.raises(InputError, match=rf"P1\.h5 has {len(content) - 100} bytes, expected {len(content)}"):
        make_batches(folder / "store")
    path.unlink()
    with pytest.raises(InputError, match=r"P1\.h5 is missing"):
        make_batches(folder / "store")


def test_a_damaged_list_or_manifest_is_named(folder):
    path = folder / "store" / store.RECORDS_NAME
    first, _, third = path.read_text().splitlines(keepends=True)
    path.write_text(first + "{nothing}\n" + third)
    with pytest.raises(InputError, match=r"cases\.jsonl is damaged: line 2"):
        make_batches(folder / "store")
    assert prepare(folder).prepared == ("P1",)
    (folder / "store" / store.MANIFEST_NAME).write_text('{"what": "dsdiff store", "format": 99}')
    with pytest.raises(InputError, match="not the manifest of a store"):
        prepare(folder)


def test_another_list_of_settings_is_refused(folder):
    with pytest.raises(ConfigError, match="was prepared with"):
        build_store.prepare_cases(folder / "cohort", folder / "store", StoreSettings(("t1", "t2")), 1)
    with pytest.raises(OutputError, match="neither a store nor empty"):
        build_store.prepare_cases(folder / "cohort", folder / "cohort" / "P0", StoreSettings(), 1)
    with pytest.raises(ConfigError, match=r"needed: t2 to t1ce, brain of t2"):
        make_batches(folder / "store", contrasts=("t2",), source_contrast="t2")


def test_a_store_whose_first_write_failed_is_started_again(folder, monkeypatch):
    def raise_disk_full(path, text):
        raise OutputError("No space")

    shutil.rmtree(folder / "store")
    (folder / "store").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(build_store, "atomic_write_text", raise_disk_full)
        with pytest.raises(OutputError, match="No space"):
            prepare(folder)
    assert prepare(folder).prepared == ("P0", "P1", "P2")


def test_a_list_with_flipped_bits_is_named_and_repaired(folder):
    path = folder / "store" / store.RECORDS_NAME
    content = path.read_bytes()
    flipped_bit = bytes([content[0] | 128]) + content[1:]
    wrong_type = content.replace(b'"scales": {', b'"scales": 3, "x": {', 1)
    for damaged in (flipped_bit, wrong_type):
        assert damaged != content
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"cases\.jsonl is damaged: line 1"):
            make_batches(folder / "store")
        assert prepare(folder).prepared == ("P0",)


def test_the_command_reports_its_work_and_names_bad_cases(folder, cli):
    (folder / "cohort" / "P0" / "P0_flair.nii.gz").unlink()
    (folder / "cohort" / "P1" / "P1_t2.nii.gz").write_bytes(b"no image")
    (folder / "split.json").write_text("{}")
    shutil.rmtree(folder / "store")
    code, output = cli("prepare", folder / "cohort", folder / "store")
    assert code == 1
    for text in (
        "2 cases (2 prepared now",
        "flair is absent from 1: P0",
        "failed: P1: ",
        "P1_t2.nii.gz is a text file",
    ):
        assert text in output
    assert (folder / "store" / contact_sheet.FILE_NAME).stat().st_size > 10_000
    with pytest.raises(CaseError, match=r"case P0 of .* has no flair"):
        make_batches(folder / "store")
    assert make_batches(folder / "store", contrasts=("t1", "t2")).load_step(0).sources.shape == (4, 2, 3, 32, 48)


def test_a_split_is_copied_into_the_store(folder, cli):
    assert cli("split", folder / "store", folder / "split.json")[0] == 0
    arguments = ("prepare", folder / "cohort", folder / "store", "--split", folder / "split.json")
    assert cli(*arguments)[0] == 0
    assert (folder / "store" / "split.json").read_bytes() == (folder / "split.json").read_bytes()
    shutil.rmtree(folder / "cohort" / "P1")
    shutil.rmtree(folder / "store")
    assert "names cases that" in cli(*arguments)[1]


def test_the_metadata_of_a_model_describe_the_store(original):
    root = original / "store"
    record = build_store.preprocessing_record(DATA.model_copy(update={"root": root}))
    opened_store = store.open_store(root)
    assert record.versions == opened_store.versions
    assert set(record.scales) == {"t1", "t2", "flair", "t1ce"}
    records = {**opened_store.records, "P0": replace(opened_store.records["P0"], input_hashes={})}
    assert replace(opened_store, records=records).hash != opened_store.hash


def test_a_case_with_changed_files_is_named(folder, cli):
    shutil.rmtree(folder / "cohort" / "P1")
    write_case(folder / "cohort", "P1", 9)
    output = cli("prepare", folder / "cohort", folder / "store")[1]
    assert "prepared again from changed files (are they the same patients?): P1" in output


def test_a_store_that_another_process_prepares_is_not_touched(folder, cli):
    times = modification_times(folder)
    with exclusive_lock(folder / "store"):
        code, output = cli("prepare", folder / "cohort", folder / "store")
    assert (code, "another process" in output, modification_times(folder)) == (2, True, times)


def test_a_split_that_does_not_fit_hides_no_failed_case(folder, cli):
    assert cli("split", folder / "store", folder / "split.json")[0] == 0
    (folder / "cohort" / "P1" / "P1_t2.nii.gz").write_bytes(b"no image")
    code, output = cli("prepare", folder / "cohort", folder / "store", "--split", folder / "split.json")
    assert (code, "failed: P1: " in output, "names cases that" in output) == (2, True, True)
