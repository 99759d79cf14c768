"""The version of a working copy names its commit."""

import shutil
import subprocess
from pathlib import Path

from dsdiff import __version__
from dsdiff.system import version


def test_a_working_copy_names_its_commit_and_changes(tmp_path: Path, monkeypatch) -> None:
    source = tmp_path / "src" / "dsdiff" / "system" / "version.py"
    source.parent.mkdir(parents=True)
    shutil.copy(version.__file__, source)
    monkeypatch.setattr(version, "__file__", str(source))
    assert version.describe_version() == __version__
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    output = subprocess.run(
        [*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True
    ).stdout
    commit = output.strip()
    assert version.describe_version() == f"{__version__} (commit {commit})"
    source.write_text("")
    assert version.describe_version() == f"{__version__} (commit {commit}, changed)"
