"""docs/design.md lists every room and file of the package, and nothing else."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "dsdiff"


def read_listing() -> dict[str, set[str]]:
    """Room -> files, as the page lists them; "" is the package itself."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    block = re.search(r"```\nsrc/dsdiff/\n(.*?)```", text, re.DOTALL)
    rooms: dict[str, set[str]] = {"": set()}
    room = ""
    for line in block.group(1).splitlines():
        heading = re.match(r"  (\w+)/ ", line)
        if heading:
            room = heading.group(1)
            rooms[room] = set()
        else:
            rooms[room].update(line.split())
    return rooms


def test_the_page_lists_the_files_that_exist():
    listed = read_listing()
    folders = [path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]
    existing = {folder.name: {path.stem for path in folder.glob("*.py")} - {"__init__"} for folder in folders}
    existing[""] = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert listed == existing


def test_the_page_lists_the_rooms_in_the_order_of_the_layers():
    layers = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("layers = [")[1].split("]")[0]
    ranks = {name: rank for rank, line in enumerate(layers.splitlines()) for name in re.findall(r"dsdiff\.(\w+)", line)}
    rooms = [room for room in read_listing() if room]
    assert [ranks[room] for room in rooms] == sorted(ranks[room] for room in rooms)
