"""Overlapped cases: the same files as one by one, and a failed case stops no other."""

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dsdiff.errors import InputError, OutputError
from dsdiff.inference import outputs
from dsdiff.inference.batch import synthesize_cases
from dsdiff.inference.model import load_model
from dsdiff.inference.options import SynthesisOptions
from dsdiff.inference.pipeline import Pipeline
from dsdiff.io.cases import Case, discover_cases, file_hash
from tests.toy_data import write_case


@pytest.fixture(scope="module")
def pipeline(model_folder):
    return Pipeline(load_model(model_folder, torch.device("cpu")))


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """Three cases; the second one is damaged."""
    for seed, name in enumerate(("A", "B", "C")):
        write_case(tmp_path / "cohort", name, seed)
    (tmp_path / "cohort" / "B" / "B_t2.nii.gz").write_bytes(b"torn")
    return discover_cases(tmp_path / "cohort")


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("memory_gb", [None, 64.0])
def test_overlapped_cases_give_the_same_files_as_single_cases(pipeline, cases, tmp_path, memory_gb):
    fractions = dict.fromkeys("ABC", 0.0)

    def progress(case: Case, fraction: float) -> None:
        fractions[case.name] = fraction

    limited = Pipeline(pipeline.model, SynthesisOptions(memory_gb=memory_gb))
    outcomes = {case.name: outcome for case, outcome in synthesize_cases(cases, tmp_path / "batch", limited, progress)}
    assert list(outcomes) == ["A", "B", "C"]
    assert isinstance(outcomes["B"], InputError)
    assert fractions == {"A": 1, "B": 0, "C": 1}

    for case in (cases[0], cases[2]):
        outputs.synthesize_case(case, tmp_path / "single", pipeline)
    assert read_files(tmp_path / "batch") == read_files(tmp_path / "single")


def test_output_that_cannot_be_written_is_returned_as_an_error(pipeline, cases, tmp_path):
    (tmp_path / "file").write_text("in the way")
    _, outcome = next(synthesize_cases(cases[:1], tmp_path / "file", pipeline))
    assert isinstance(outcome, OutputError)


def test_computed_case_is_written_even_if_the_caller_stops(pipeline, cases, tmp_path):
    outcomes = synthesize_cases([cases[0], cases[2]], tmp_path / "batch", pipeline)
    assert next(outcomes)[0].name == "A"
    outcomes.close()
    assert (tmp_path / "batch" / "C" / "provenance.json").is_file()


@pytest.mark.slow
def test_at_most_two_cases_are_in_memory(pipeline, cases, tmp_path, monkeypatch):
    brains, counts, read_case = [], [], outputs.read_case

    def count_cases(case, out, model):
        loaded = read_case(case, out, model)
        brains.append(weakref.ref(loaded.case.brain))
        gc.collect()
        counts.append(sum(brain() is not None for brain in brains))
        return loaded

    monkeypatch.setattr(outputs, "read_case", count_cases)
    good_cases = [cases[0], cases[2]] * 3
    assert len(list(synthesize_cases(good_cases, tmp_path / "batch", pipeline))) == 6
    assert max(counts) == 2


def test_provenance_has_the_hashes_of_the_files_as_read(pipeline, cases, tmp_path):
    case, t1 = cases[0], cases[0].files["t1"]
    t1_hash = file_hash(t1)
    loaded = outputs.read_case(case, tmp_path / "out", pipeline.model)
    t1.write_bytes(b"another patient's, meanwhile")
    for contrast in ("t2", "flair"):
        case.files[contrast].unlink()

    outputs.write_case(pipeline.synthesize_loaded(loaded), case, tmp_path / "out", pipeline.model)
    provenance = json.loads((tmp_path / "out" / "A" / "provenance.json").read_text())
    assert provenance["inputs"]["t1"]["sha256"] == t1_hash
    assert not outputs.is_finished(case, tmp_path / "out", pipeline)


def test_result_of_another_engine_is_not_the_requested_result(pipeline, cases, tmp_path):
    outputs.synthesize_case(cases[0], tmp_path, pipeline)
    assert outputs.is_finished(cases[0], tmp_path, pipeline)

    provenance = tmp_path / "A" / "provenance.json"
    provenance.write_text(provenance.read_text().replace(pipeline.model.engine.label, "another"))
    assert outputs.is_finished(cases[0], tmp_path, pipeline)  # engine auto accepts the result of any
    eager = Pipeline(replace(pipeline.model, engine_name="eager"))
    assert not outputs.is_finished(cases[0], tmp_path, eager)


def test_case_name_is_not_rendered_as_a_formula(pipeline, cases, tmp_path):
    case = replace(cases[0], name="cost$$a\\frac{$")
    outputs.synthesize_case(case, tmp_path, pipeline)
    assert (tmp_path / case.name / "preview.png").is_file()
