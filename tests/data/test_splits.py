import json
from pathlib import Path

import pytest

from dsdiff.data import splits
from dsdiff.errors import ConfigError


def test_every_patient_is_held_out_once(tmp_path):
    names = [f"P{i}" for i in range(11)]
    split = splits.make(names, 3, seed=5)
    assert sorted(name for fold in split.folds for name in fold) == sorted(names)
    assert sorted(map(len, split.folds)) == [3, 4, 4]
    splits.write(split, tmp_path / "a" / "split.json")
    assert splits.read(tmp_path / "a" / "split.json") == split
    assert splits.make(names[::-1], 3, seed=5) == split
    assert splits.make(names, 3, seed=6).hash != split.hash


def test_a_changed_split_is_refused(tmp_path):
    path = tmp_path / "split.json"
    splits.write(splits.make(["a", "b", "c"], 3, 0), path)
    data = json.loads(path.read_text())
    data["folds"][0], data["folds"][1] = data["folds"][1], data["folds"][0]
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="was changed"):
        splits.read(path)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="not a split file"):
        splits.read(path)


def test_impossible_folds_are_refused():
    with pytest.raises(ConfigError, match="2 to 2 can"):
        splits.make(["a", "b"], 3, 0)
    with pytest.raises(ConfigError, match="folds 0 to 1"):
        splits.make(["a", "b"], 2, 0).held_out(2)


@pytest.mark.parametrize("names", [("sub-{}_ses-1", "sub-{}_ses-2"), ("BraTS-GLI-0000{}-000", "BraTS-GLI-0000{}-001")])
def test_visits_of_a_patient_stay_together(names):
    visits = [[name.format(patient) for name in names] for patient in range(6)]
    split = splits.make([name for both in visits for name in both], 3, 2024)
    assert sorted(map(len, split.folds)) == [4, 4, 4]
    assert all(
        len({split.folds.index(fold) for fold in split.folds for name in both if name in fold}) == 1 for both in visits
    )
    with pytest.raises(ConfigError, match="7 folds of 6 patients"):
        splits.make([name for both in visits for name in both], 7, 0)


def test_the_split_of_the_shipped_model_is_dealt_as_it_was():
    split = splits.read(Path(__file__).parents[2] / "models" / "split.json")
    assert splits.make([name for fold in split.folds for name in fold], 3, 2024).hash == split.hash == "611d7b3da629"
