import shutil
import subprocess
from pathlib import Path

from dsdiff import __version__
from dsdiff.system import version


def test_a_working_copy_tells_its_commit_and_whether_it_changed(tmp_path: Path, monkeypatch) -> None:
    copied = tmp_path / "src" / "dsdiff" / "source.py"
    copied.parent.mkdir(parents=True)
    shutil.copy(version.__file__, copied)
    monkeypatch.setattr(version, "__file__", str(copied))
    assert version.label() == __version__
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
    assert version.label() == f"{__version__} (commit {commit.stdout.strip()})"
    copied.write_text("")
    assert version.label() == f"{__version__} (commit {commit.stdout.strip()}, changed)"
