"""Files and folders appear complete or not at all, and two processes do not write into one folder."""

import subprocess
import sys

import pytest

from dsdiff.errors import OutputError
from dsdiff.system import atomic


def test_a_file_stays_as_it_was_after_an_error(tmp_path):
    file = tmp_path / "new" / "a.txt"
    atomic.atomic_write_text(file, "first")
    with pytest.raises(ZeroDivisionError), atomic.atomic_file(file) as tmp_file:
        tmp_file.write_text("half of the sec")
        raise ZeroDivisionError
    assert file.read_text() == "first"
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]
    with pytest.raises(OutputError, match="cannot be written: File exists"):
        atomic.atomic_write_text(file / "b.txt", "below a file")


def test_a_folder_stays_as_it_was_if_it_cannot_be_replaced(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    (target / "file").write_text("old")
    rename, failed = type(target).rename, []

    def fail_once(self, destination):
        if destination == target and not failed:
            failed.append(self)
            raise OSError(16, "Device or resource busy")
        return rename(self, destination)

    monkeypatch.setattr(type(target), "rename", fail_once)
    with pytest.raises(OutputError, match="Device or resource busy"), atomic.atomic_dir(target) as folder:
        (folder / "new").write_text("new")
    assert failed
    assert (target / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with atomic.atomic_dir(tmp_path / "link") as folder:
        (folder / "new").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target" / "new").is_file()


def test_two_processes_do_not_write_into_one_folder(tmp_path):
    code = (
        "import sys, pathlib; from dsdiff.system.atomic import exclusive_lock\n"
        "with exclusive_lock(pathlib.Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(OutputError, match="is being written by another process"), atomic.exclusive_lock(tmp_path):
            pass
        process.kill()
    with atomic.exclusive_lock(tmp_path):  # the lock of a killed process is free
        pass


def test_after_a_kill_older_folders_are_restored_and_the_rest_removed(tmp_path):
    """One process was killed between the two renames of `atomic_dir`, others while they wrote or removed a folder."""
    for name in (".model.a1.old/model", ".best.b2.partial", ".best.c3.old/best", "best", "notes"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
    atomic.recover_interrupted(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "model", "notes"]
    assert (tmp_path / "model" / "file").read_text() == ".model.a1.old/model"
    assert (tmp_path / "best" / "file").read_text() == "best"
