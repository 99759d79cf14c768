"""A prepared store: the same batches as the folder it came from, and nothing lost, torn or damaged without a word."""

import json
import multiprocessing
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from dsdiff.config import run as configs
from dsdiff.data import build_store, dataloader, store
from dsdiff.data.dataloader import Batches, prefetched
from dsdiff.data.settings import DataConfig
from dsdiff.data.store import Settings
from dsdiff.errors import CaseError, ConfigError, InputError, OutputError
from dsdiff.io import cases
from dsdiff.model import checkpoint
from dsdiff.preprocessing import normalize
from dsdiff.reporting import contact_sheet
from dsdiff.system.atomic import alone
from dsdiff.training import loop
from tests.toy_data import TINY, write_case

QUIET = Console(quiet=True)
DATA = DataConfig(crop=(32, 48))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Three cases and their store, for tests that change neither."""
    place = tmp_path_factory.mktemp("original")
    for seed in range(3):
        write_case(place / "cohort", f"P{seed}", seed)
    made = build_store.prepare(place / "cohort", place / "store", Settings(), 1, QUIET)
    assert (made.made, made.kept, made.failed) == (("P0", "P1", "P2"), (), {})
    return place


@pytest.fixture
def place(original, tmp_path):
    """A copy to change."""
    return shutil.copytree(original, tmp_path / "place")


def again(place, workers=1):
    return build_store.prepare(place / "cohort", place / "store", Settings(), workers, QUIET)


def files(place):
    return {path.name: path.stat().st_mtime_ns for path in (place / "store" / store.FOLDER).iterdir()}


def drawn(root, **more):
    data = DATA.model_copy(update={"root": root, **more})
    patients = dataloader.gather(data, "linear" if data.target_style == "own" else "none", QUIET)
    return Batches(data, 3, 4, patients.training)


def same(a, b):
    fields = [name for name in ("sources", "target", "region", "present", "styled") if getattr(a, name) is not None]
    return a.cases == b.cases and all(torch.equal(getattr(a, name), getattr(b, name)) for name in fields)


@pytest.mark.parametrize("more", [{}, {"target_style": "average"}, {"contrasts": ("flair", "t1"), "context_slices": 5}])
def test_a_store_gives_the_batches_of_its_folder(original, more):
    folder, kept = (drawn(original / name, **more) for name in ("cohort", "store"))
    assert all(same(folder.at(step), kept.at(step)) for step in range(3))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_read_a_store_that_was_read_before(original, workers):
    kept = drawn(original / "store")
    expected = [kept.at(step) for step in range(4)]
    assert all(map(same, expected, prefetched(kept, 0, 4, workers)))


def test_what_is_kept_is_within_half_precision_of_the_z_scores(original):
    (case, *_) = cases.discover(original / "cohort")
    z = normalize.apply(cases.load(case, ("t1", "t1ce"))).images["t1ce"]
    kept = store.read_arrays(store.case_file(original / "store", "P0"), {"t1ce": slice(None)})["t1ce"]
    brain = z[z != 0]
    assert np.sort(kept[kept != 0].astype(np.float32)) == pytest.approx(np.sort(brain), rel=2**-11)


def test_a_stopped_preparation_goes_on(place, monkeypatch):
    shutil.rmtree(place / "store")
    one, done = build_store._one, []

    def stopping(case, known, **more):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(case.name)
        return one(case, known, **more)

    monkeypatch.setattr(build_store, "_one", stopping)
    with pytest.raises(KeyboardInterrupt):
        again(place)
    before = files(place)
    monkeypatch.setattr(build_store, "_one", one)
    report = again(place)
    assert (report.made, report.kept) == (("P2",), ("P0", "P1"))
    assert before.items() <= files(place).items()


@pytest.mark.parametrize("left", [0.3, 0.99])
def test_a_case_whose_line_was_being_written_is_none(place, left):
    listed = place / "store" / store.LIST
    first, second, third = listed.read_text().splitlines(keepends=True)
    listed.write_text(first + second + third[: int(left * len(third))])
    assert list(store.open_store(place / "store").entries) == ["P0", "P1"]
    report = again(place)
    assert (report.made, report.kept) == (("P2",), ("P0", "P1"))
    assert listed.read_text() == first + second + third


def test_new_and_changed_cases_are_prepared_and_the_rest_left(place):
    write_case(place / "cohort", "P3", 3)
    shutil.rmtree(place / "cohort" / "P1")
    write_case(place / "cohort", "P1", 7)
    before, hash_before = files(place), store.open_store(place / "store").hash
    report = again(place, workers=2)
    assert (report.made, report.kept) == (("P1", "P3"), ("P0", "P2"))
    after = files(place)
    assert {name for name in before if after[name] == before[name]} == {"P0.h5", "P2.h5"}
    assert store.open_store(place / "store").hash != hash_before
    assert not list((place / "store").rglob("*.partial"))


def test_a_case_that_fails_now_leaves_the_store(place):
    cohort = place / "cohort"
    (cohort / "P1" / "P1_t2.nii.gz").write_bytes(b"no image")
    shutil.copy(cohort / "P2" / "P2_t1.nii.gz", cohort / "P2" / "P2_t2.nii.gz")
    report = again(place)
    assert (report.made, report.kept, list(report.failed)) == ((), ("P0",), ["P1", "P2"])
    assert "one contrast is a copy of another" in report.failed["P2"]
    assert list(store.open_store(place / "store").entries) == ["P0"]
    assert list(files(place)) == ["P0.h5"]


def test_a_file_that_cannot_be_read_for_once_costs_the_store_nothing(place):
    t1, aside = place / "cohort" / "P1" / "P1_t1.nii.gz", place / "aside.nii.gz"
    t1.rename(aside)
    t1.symlink_to(place / "nowhere.nii.gz")
    report = again(place)
    assert list(report.failed) == ["P1"]
    assert list(store.open_store(place / "store").entries) == ["P0", "P1", "P2"]
    t1.unlink()
    aside.rename(t1)
    assert again(place).kept == ("P0", "P1", "P2")


@pytest.mark.parametrize(
    ("asked", "says"), [("t1,flare", "no file's name tells 'flare'"), ("t1,t2,t1", "twice"), ("t1,t1ce", "target")]
)
def test_a_store_that_no_training_could_use_is_refused(place, cli, asked, says):
    code, said = cli("prepare", place / "cohort", place / "other", "--contrasts", asked)
    assert (code, says in said, (place / "other").exists()) == (2, True, False)


def test_a_case_that_is_gone_is_named_and_taken_out_when_asked(place, cli):
    shutil.rmtree(place / "cohort" / "P1")
    code, said = cli("prepare", place / "cohort", place / "store")
    assert code == 0
    assert "in the store, and trained on, but not in the folder: P1 (--prune takes them out)" in said
    assert list(store.open_store(place / "store").entries) == ["P0", "P1", "P2"]
    code, said = cli("prepare", place / "cohort", place / "store", "--prune")
    assert (code, "P1" in said) == (0, False)
    assert list(store.open_store(place / "store").entries) == ["P0", "P2"]
    assert sorted(files(place)) == ["P0.h5", "P2.h5"]


def test_a_store_measures_the_contrasts_that_are_read_and_no_others(original):
    fewer = DATA.model_copy(update={"contrasts": ("t1", "t2"), "target": "t1ce"})
    for one, other in zip(
        dataloader.read(original / "store", fewer, QUIET),
        dataloader.read(original / "cohort", fewer, QUIET),
        strict=True,
    ):
        assert one.measured.keys() == other.measured.keys()
        for group, found in one.measured.items():
            assert found == pytest.approx(other.measured[group])


def test_damage_is_named_and_mended(place):
    file = store.case_file(place / "store", "P1")
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"^[^\n]*P1\.h5 is damaged .* makes it anew$") as kept:
            list(prefetched(drawn(place / "store"), 0, 30, workers))
        assert kept.tb is not None and not multiprocessing.active_children()  # an error that is kept keeps no worker
    with pytest.raises(InputError, match=r"P1\.h5 is damaged .* makes it anew"):
        for patient in store.open_store(place / "store").patients(DATA.contrasts, "t1ce", "t1"):
            patient.slices.whole()
    assert again(place).made == ("P1",)
    assert file.read_bytes() == whole
    file.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=rf"P1\.h5 has {len(whole) - 100} bytes, not {len(whole)}"):
        drawn(place / "store")
    file.unlink()
    with pytest.raises(InputError, match=r"P1\.h5 is not there"):
        drawn(place / "store")
    listed = place / "store" / store.LIST
    lines = listed.read_text().splitlines(keepends=True)
    listed.write_text(lines[0] + "{nothing}\n" + lines[2])
    with pytest.raises(InputError, match=r"cases\.jsonl is damaged: line 2"):
        drawn(place / "store")
    assert again(place).made == ("P1",)
    (place / "store" / store.MANIFEST).write_text('{"what": "dsdiff store", "format": 99}')
    with pytest.raises(InputError, match="not the manifest of a store"):
        again(place)


def test_what_was_prepared_for_something_else_is_refused(place):
    with pytest.raises(ConfigError, match="was prepared with"):
        build_store.prepare(place / "cohort", place / "store", Settings(("t1", "t2")), 1, QUIET)
    with pytest.raises(OutputError, match="neither a store nor empty"):
        build_store.prepare(place / "cohort", place / "cohort" / "P0", Settings(), 1, QUIET)
    with pytest.raises(ConfigError, match=r"needed: t2 to t1ce, brain of t2"):
        drawn(place / "store", contrasts=("t2",), source_contrast="t2")


def test_a_store_whose_first_write_failed_is_begun_again(place):
    shutil.rmtree(place / "store")
    (place / "store").mkdir()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OutputError, match="No space"):
        patch.setattr(build_store, "write_whole", lambda *_: (_ for _ in ()).throw(OutputError("No space")))
        again(place)
    assert again(place).made == ("P0", "P1", "P2")


def test_a_list_that_rotted_is_named_and_mended(place):
    listed = place / "store" / store.LIST
    whole = listed.read_bytes()
    for bad in (bytes([whole[0] | 128]) + whole[1:], whole.replace(b'"scales": {', b'"scales": 3, "x": {', 1)):
        assert bad != whole
        listed.write_bytes(bad)
        with pytest.raises(InputError, match=r"cases\.jsonl is damaged: line 1"):
            drawn(place / "store")
        assert again(place).made == ("P0",)


def test_the_command_tells_what_it_did_and_names_bad_cases(place, cli):
    (place / "cohort" / "P0" / "P0_flair.nii.gz").unlink()
    (place / "cohort" / "P1" / "P1_t2.nii.gz").write_bytes(b"no image")
    (place / "split.json").write_text("{}")
    shutil.rmtree(place / "store")
    code, said = cli("prepare", place / "cohort", place / "store")
    assert code == 1
    for words in (
        "2 cases (2 prepared now",
        "flair is absent from 1: P0",
        "failed: P1: ",
        "P1_t2.nii.gz cannot be read",
    ):
        assert words in said
    assert (place / "store" / contact_sheet.NAME).stat().st_size > 10_000
    with pytest.raises(CaseError, match=r"case P0 of .* has no flair"):
        drawn(place / "store")
    assert drawn(place / "store", contrasts=("t1", "t2")).at(0).sources.shape == (4, 2, 3, 32, 48)


def test_a_split_goes_with_the_store(place, cli):
    assert cli("split", place / "store", place / "split.json")[0] == 0
    line = ("prepare", place / "cohort", place / "store", "--split", place / "split.json")
    assert cli(*line)[0] == 0
    assert (place / "store" / "split.json").read_bytes() == (place / "split.json").read_bytes()
    shutil.rmtree(place / "cohort" / "P1")
    shutil.rmtree(place / "store")
    assert "names cases that" in cli(*line)[1]


def test_a_model_trained_from_a_store_says_how_its_patients_were_prepared(original, tmp_path):
    data = {**TINY["data"], "root": str(original / "store")}
    model = loop.train(configs.parse({**TINY, "data": data}, "test"), tmp_path / "run", torch.device("cpu"), QUIET)
    facts, opened = checkpoint.read(model).facts, store.open_store(original / "store")
    assert facts["store"] == opened.hash
    told = json.loads(facts["preprocessing"])
    assert told["versions"] == opened.versions
    assert set(told["scales"]) == {"t1", "t2", "flair", "t1ce"}
    entries = {**opened.entries, "P0": replace(opened.entries["P0"], inputs={})}
    assert replace(opened, entries=entries).hash != opened.hash


def test_a_case_whose_files_are_others_is_named(place, cli):
    shutil.rmtree(place / "cohort" / "P1")
    write_case(place / "cohort", "P1", 9)
    assert (
        "made anew, of other files than before (the same patients?): P1"
        in cli("prepare", place / "cohort", place / "store")[1]
    )


def test_a_store_that_another_process_prepares_is_left_alone(place, cli):
    before = files(place)
    with alone(place / "store"):
        code, said = cli("prepare", place / "cohort", place / "store")
    assert (code, "is being written by another process" in said, files(place)) == (2, True, before)


def test_a_split_that_does_not_fit_hides_no_failed_case(place, cli):
    assert cli("split", place / "store", place / "split.json")[0] == 0
    (place / "cohort" / "P1" / "P1_t2.nii.gz").write_bytes(b"no image")
    code, said = cli("prepare", place / "cohort", place / "store", "--split", place / "split.json")
    assert (code, "failed: P1: " in said, "names cases that" in said) == (2, True, True)
