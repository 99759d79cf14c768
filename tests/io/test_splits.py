"""Folds of patients: complete, reproducible, without visits of one patient in two folds, and safe from changes."""

import json
from itertools import chain
from pathlib import Path

import pytest

from dsdiff.errors import ConfigError
from dsdiff.io import splits


def test_each_case_is_in_one_fold(tmp_path):
    names = [f"P{i}" for i in range(11)]
    split = splits.make(names, 3, seed=5)
    assert sorted(chain.from_iterable(split.folds)) == sorted(names)
    assert sorted(map(len, split.folds)) == [3, 4, 4]
    splits.write(split, tmp_path / "a" / "split.json")
    assert splits.read(tmp_path / "a" / "split.json") == split
    assert splits.make(names[::-1], 3, seed=5) == split
    assert splits.make(names, 3, seed=6).hash != split.hash


def test_a_changed_split_is_refused(tmp_path):
    path = tmp_path / "split.json"
    splits.write(splits.make(["a", "b", "c"], 3, 0), path)
    content = json.loads(path.read_text())
    content["folds"][0], content["folds"][1] = content["folds"][1], content["folds"][0]
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="was changed"):
        splits.read(path)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="not a split file"):
        splits.read(path)


def test_impossible_folds_are_refused():
    with pytest.raises(ConfigError, match="3 folds need 3 patients or more; the cohort has 2"):
        splits.make(["a", "b"], 3, 0)
    with pytest.raises(ConfigError, match="folds 0 to 1"):
        splits.make(["a", "b"], 2, 0).held_out(2)


@pytest.mark.parametrize(
    "visit_names", [("sub-{}_ses-1", "sub-{}_ses-2"), ("BraTS-GLI-0000{}-000", "BraTS-GLI-0000{}-001")]
)
def test_visits_of_a_patient_are_in_one_fold(visit_names):
    first_visits, second_visits = ([name.format(patient) for patient in range(6)] for name in visit_names)
    split = splits.make(first_visits + second_visits, 3, 2024)
    assert sorted(map(len, split.folds)) == [4, 4, 4]
    for fold in split.folds:
        for first_visit, second_visit in zip(first_visits, second_visits, strict=True):
            assert (first_visit in fold) == (second_visit in fold)
    with pytest.raises(ConfigError, match="7 folds need 7 patients or more; the cohort has 6"):
        splits.make(first_visits + second_visits, 7, 0)


def test_the_split_of_the_shipped_model_can_be_made_again():
    split = splits.read(Path(__file__).parents[2] / "models" / "split.json")
    cases = list(chain.from_iterable(split.folds))
    assert splits.make(cases, 3, 2024).hash == split.hash == "611d7b3da629"
