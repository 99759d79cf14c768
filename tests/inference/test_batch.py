"""Cases overlapped: the same files as alone, and one that fails stops no other."""

import gc
import json
import weakref
from dataclasses import replace

import pytest
import torch

from dsdiff.errors import InputError, OutputError
from dsdiff.inference import model as models
from dsdiff.inference import outputs as case_io
from dsdiff.inference.batch import synthesize_cases
from dsdiff.inference.pipeline import complete
from dsdiff.io import cases
from tests.toy_data import write_case


@pytest.fixture(scope="module")
def model(model_folder):
    return models.load(model_folder, torch.device("cpu"))


@pytest.fixture
def todo(tmp_path):
    for seed, name in enumerate(("A", "B", "C")):
        write_case(tmp_path / "cohort", name, seed)
    (tmp_path / "cohort" / "B" / "B_t2.nii.gz").write_bytes(b"torn")
    return cases.discover(tmp_path / "cohort")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("memory", [None, 64.0])
def test_overlapped_cases_give_the_files_that_each_alone_gives(model, todo, tmp_path, memory):
    told = dict.fromkeys("ABC", 0.0)

    def progress(case, share):
        told[case.name] = share

    made = synthesize_cases(todo, tmp_path / "many", model, memory=memory, progress=progress)
    outcomes = {case.name: outcome for case, outcome in made}
    assert list(outcomes) == ["A", "B", "C"]
    assert isinstance(outcomes["B"], InputError)
    assert told == {"A": 1, "B": 0, "C": 1}
    for case in (todo[0], todo[2]):
        case_io.synthesize_case(case, tmp_path / "alone", model)
    assert contents(tmp_path / "many") == contents(tmp_path / "alone")


def test_an_output_that_cannot_be_written_is_handed_back(model, todo, tmp_path):
    (tmp_path / "file").write_text("in the way")
    made = synthesize_cases(todo[:1], tmp_path / "file", model)
    assert isinstance(next(made)[1], OutputError)


def test_what_is_computed_is_written_though_nobody_asks_for_more(model, todo, tmp_path):
    made = synthesize_cases([todo[0], todo[2]], tmp_path / "many", model)
    assert next(made)[0].name == "A"
    made.close()
    assert (tmp_path / "many" / "C" / "provenance.json").is_file()


def test_two_cases_are_held_at_most(model, todo, tmp_path, monkeypatch):
    brains, held, read = [], [], case_io.read

    def watched(case, out, model):
        prepared = read(case, out, model)
        brains.append(weakref.ref(prepared.brain))
        gc.collect()
        held.append(sum(brain() is not None for brain in brains))
        return prepared

    monkeypatch.setattr(case_io, "read", watched)
    good = [todo[0], todo[2]] * 3
    assert len([case for case, _ in synthesize_cases(good, tmp_path / "many", model)]) == 6
    assert max(held) == 2


def test_provenance_tells_the_files_that_were_read(model, todo, tmp_path):
    case, t1 = todo[0], todo[0].files["t1"]
    before = cases.file_hash(t1)
    prepared = case_io.read(case, tmp_path / "out", model)
    t1.write_bytes(b"another patient's, meanwhile")
    result = complete(prepared, model)
    for name in ("t2", "flair"):
        case.files[name].unlink()
    case_io.write(result, case, tmp_path / "out", model)
    told = json.loads((tmp_path / "out" / "A" / "provenance.json").read_text())
    assert told["inputs"]["t1"]["sha256"] == before
    assert not case_io.is_finished(tmp_path / "out", case, model, result.sampling)


def test_what_another_engine_made_is_not_what_was_asked_for(model, todo, tmp_path):
    result = case_io.synthesize_case(todo[0], tmp_path, model)
    assert case_io.is_finished(tmp_path, todo[0], model, result.sampling)  # auto takes what there is
    made = tmp_path / "A" / "provenance.json"
    made.write_text(made.read_text().replace(model.engine.says, "another"))
    assert case_io.is_finished(tmp_path, todo[0], model, result.sampling)
    assert not case_io.is_finished(tmp_path, todo[0], replace(model, computed_by="eager"), result.sampling)


def test_names_are_letters_and_no_formulas(model, todo, tmp_path):
    odd = replace(todo[0], name="cost$$a\\frac{$")
    case_io.synthesize_case(odd, tmp_path, model)
    assert (tmp_path / odd.name / "preview.png").is_file()
