"""Limits on what makes code hard to read: vague names, long parameter lists, nested comprehensions."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "dsdiff"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Pronouns, participles and adverbs: they do not say what a variable holds.
VAGUE_WORDS = """
    told said found made wanted kept given held there drawn here apart aside one other others another several alone
    whole beside besides asked answer says doubt doubts doubted known seen owed lost taken ours theirs coming begun
    everyone everything near far least most where own fresh gone lacking untimed now then since before after some every
    each both alike cut shown what more rest this that mine its by of at into onto wrong right odd likely calm close
    """
VAGUE_NAMES = set(VAGUE_WORDS.split())
MAX_VAGUE_FRACTION = 0.005
PUBLIC_FACE = {"synthesize"}  # called by users with keywords
MAX_PARAMETERS = 6
MAX_NESTED_COMPREHENSIONS = 1.5  # per 1000 lines
MIN_DOCUMENTED_FRACTION = 0.95
MAX_FILES_PER_FOLDER = 14  # besides __init__.py

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SECTIONS = ("Args:", "Returns:", "Raises:", "Yields:")


def walk_sources() -> Iterator[tuple[Path, ast.AST]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            yield path, node


def location(path: Path, node: ast.AST, name: str = "") -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno} {name}"


def bound_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    return node.arg if isinstance(node, ast.arg) else None


def test_names_are_not_vague():
    names = [(path, node, name) for path, node in walk_sources() if (name := bound_name(node))]
    vague = [location(path, node, name) for path, node, name in names if name.strip("_") in VAGUE_NAMES]
    assert len(vague) <= MAX_VAGUE_FRACTION * len(names), "\n".join(vague)


def test_functions_have_few_parameters():
    long = []
    for path, node in walk_sources():
        if isinstance(node, FUNCTIONS) and path.parent.name != "cli":  # a command has a parameter per option
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            n_parameters = sum(argument.arg not in ("self", "cls") for argument in arguments)
            if n_parameters > MAX_PARAMETERS and node.name not in PUBLIC_FACE:
                long.append(f"{location(path, node, node.name)} has {n_parameters}")
    assert not long, "\n".join(long)


def test_docstrings_of_public_functions_have_sections():
    n_public, plain = 0, []
    for path, node in walk_sources():
        if isinstance(node, FUNCTIONS) and not node.name.startswith("_"):
            docstring = ast.get_docstring(node)
            n_public += docstring is not None
            if docstring is not None and not any(section in docstring for section in SECTIONS):
                plain.append(location(path, node, node.name))
    assert len(plain) <= (1 - MIN_DOCUMENTED_FRACTION) * n_public, "\n".join(plain)


def is_nested(node: ast.AST) -> bool:
    return len(node.generators) > 1 or any(
        isinstance(child, COMPREHENSIONS) for child in ast.walk(node) if child is not node
    )


def test_comprehensions_are_not_nested():
    nested = [
        location(path, node) for path, node in walk_sources() if isinstance(node, COMPREHENSIONS) and is_nested(node)
    ]
    n_lines = sum(path.read_text().count("\n") for path in SOURCES)
    assert len(nested) <= MAX_NESTED_COMPREHENSIONS * n_lines / 1000, "\n".join(nested)


def test_folders_have_few_files():
    crowded = []
    for folder in sorted({path.parent for path in SOURCES}):
        n_files = len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        if n_files > MAX_FILES_PER_FOLDER:
            crowded.append(f"{folder.relative_to(ROOT)} has {n_files} files")
    assert not crowded, "\n".join(crowded)
