import json

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
