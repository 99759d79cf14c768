"""The version stands in one place: `dsdiff.__version__`, which the package's metadata are built from."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import dsdiff

ROOT = Path(__file__).resolve().parents[2]


def test_installed_metadata_have_the_version_of_the_package():
    assert version("dsdiff-mri") == dsdiff.__version__


def test_pyproject_reads_the_version_from_the_package():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert pyproject["project"]["dynamic"] == ["version"]
    assert "version" not in pyproject["project"]
    assert pyproject["tool"]["hatch"]["version"]["path"] == "src/dsdiff/__init__.py"
