"""An output that cannot be written, or would destroy other files, is refused before long work."""

import json
import os
import re
from pathlib import Path

import pytest

from dsdiff.errors import OutputError
from dsdiff.system import output_checks

OUTPUT_PATTERN = re.compile(r"metadata\.json|result\.txt")


def check(folder):
    output_checks.check_replaceable(folder, "metadata.json", "test output", OUTPUT_PATTERN)


def write_output(folder):
    folder.mkdir()
    (folder / "metadata.json").write_text(json.dumps({"what": "test output"}))
    (folder / "result.txt").write_text("result")


def test_folders_that_cannot_be_replaced_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"is the folder that this command runs in.*give a folder below it"):
        check(tmp_path)
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "mounted")
    with pytest.raises(OutputError, match="is a mount"):
        check(tmp_path / "mounted")


def test_only_an_earlier_output_may_be_replaced(tmp_path):
    check(tmp_path / "new")
    write_output(tmp_path / "out")
    check(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds notes\.txt"):
        check(tmp_path / "out")
    (tmp_path / "out" / "metadata.json").unlink()
    with pytest.raises(OutputError, match="is not an output of dsdiff"):
        check(tmp_path / "out")


def test_only_files_of_an_earlier_output_may_be_overwritten(tmp_path):
    names = ("metadata.json", "result.txt")
    write_output(tmp_path / "out")
    output_checks.check_overwrite(tmp_path / "out", "test output", names)
    (tmp_path / "out" / "metadata.json").unlink()
    with pytest.raises(OutputError, match=r"holds result\.txt, which this command did not write"):
        output_checks.check_overwrite(tmp_path / "out", "test output", names)


def test_an_image_needs_the_suffix_png(tmp_path):
    output_checks.check_png_path(tmp_path / "figure.png")
    with pytest.raises(OutputError, match=r"ends in \.png"):
        output_checks.check_png_path(tmp_path / "figure.jpg")
