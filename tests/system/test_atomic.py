import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dsdiff.errors import OutputError
from dsdiff.system import atomic

OURS = re.compile(r"facts\.json")


def test_a_file_is_whole_or_as_it_was(tmp_path):
    file = tmp_path / "new" / "a.txt"
    atomic.write_whole(file, "first")
    with pytest.raises(ZeroDivisionError), atomic.whole_file(file) as beside:
        beside.write_text("half of the sec")
        raise ZeroDivisionError
    assert file.read_text() == "first"
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]
    with pytest.raises(OutputError, match="cannot be written: File exists"):
        atomic.write_whole(file / "b.txt", "below a file")


def test_a_folder_that_cannot_be_put_in_place_leaves_what_stood_there(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    (target / "kept").write_text("as it was")
    rename, refused = type(target).rename, []

    def refusing(self, to):
        if to == target and not refused:
            refused.append(self)
            raise OSError(16, "Device or resource busy")
        return rename(self, to)

    monkeypatch.setattr(type(target), "rename", refusing)
    with pytest.raises(OutputError, match="Device or resource busy"), atomic.whole(target) as folder:
        (folder / "new").write_text("new")
    assert refused
    assert (target / "kept").read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with atomic.whole(tmp_path / "link") as folder:
        (folder / "new").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "new").is_file()


def test_what_nothing_can_take_the_place_of_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"is the folder that this command runs in.*give a folder below it"):
        atomic.refuse_foreign(tmp_path, "facts.json", "ours", OURS)
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "mounted")
    with pytest.raises(OutputError, match="is a mount"):
        atomic.refuse_foreign(tmp_path / "mounted", "facts.json", "ours", OURS)
    atomic.refuse_foreign(tmp_path / "new", "facts.json", "ours", OURS)


def test_two_processes_do_not_write_into_one_folder(tmp_path):
    code = (
        "import sys, pathlib; from dsdiff.system.atomic import alone\n"
        "with alone(pathlib.Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    line = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(OutputError, match="is being written by another process"), atomic.alone(tmp_path):
            pass
        other.kill()
    with atomic.alone(tmp_path):  # whoever is killed lets go
        pass


def test_what_a_kill_left_is_swept_and_the_older_result_put_back(tmp_path):
    """Killed between the two renames of `whole`, and while it wrote another."""
    for place in (".model.a1.old/model", ".best.b2.partial", ".best.c3.old/best", "best", "notes"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "file").write_text(place)
    atomic.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "model", "notes"]
    assert (tmp_path / "model" / "file").read_text() == ".model.a1.old/model"
    assert (tmp_path / "best" / "file").read_text() == "best"
