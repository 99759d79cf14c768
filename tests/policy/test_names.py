"""Names that the code no longer uses, each replaced by a word of the field.

The lists hold names that say nothing on their own, or that this field uses for something else. They are checked
where a name is introduced: definitions, bindings, import aliases, file names, config keys.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "dsdiff"
PYTHON_FILES = sorted(path for folder in ("src", "tests", "scripts") for path in (ROOT / folder).rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def words(text: str) -> set[str]:
    return set(text.split())


MODULES = words(
    """
    benchmark parts overriding legacy source folders progress signals
    backbones/convolutions backbones/foreign backbones/printed backbones/streams backbones/tokens
    comparison/apart comparison/budget comparison/fit comparison/front comparison/kept comparison/page
    comparison/prepare comparison/work conditioning/structure conditioning/style
    data/ancestors data/batch data/cases data/cohort data/contact data/familiar data/labels data/loader data/nearest
    data/phantom_folder data/prepare data/preprocess data/registration data/signal data/style data/views
    evaluation/cohort evaluation/measures evaluation/metrics evaluation/pairs evaluation/patient evaluation/scores
    evaluation/similarity evaluation/uncertainty
    inference/assemble inference/case inference/cohort inference/explain inference/exported inference/formats
    inference/graphs inference/predict inference/probe inference/reference inference/refine inference/synthesize
    inference/workers
    training/finetune training/folders training/judge training/objective training/pictures training/runs training/state
    training/stop training/watch
    """
)
CLASSES = words(
    """
    Part Target Familiar Group Known Nearest Ancestor Boxed Slab Prepared Patient Styles Code Batches Stored Entry
    Settings Drawn Assembled Told Lesson Refinement Ceiling Captured Concatenated Printed Agreement Origin Facts
    Conditioning Denoising Judge Judged Judgement Asked Watch Stop Heard World Seen Shown Codes Restyle Thick Kind
    """
)

FUNCTIONS = words(
    """
    doubts doubted says told drawn learn holds saw can_tell beside without besides alone waiting whole whole_file
    write_whole filled sweep heed deaf unheard go_on worthwhile in_order give_back share_heap pick complete place
    wanted converted is_one allow claim stands keep badness due satisfied obey joined by_first largest shared_out
    taken_apart accumulating begin sketch misaligned misordered dissimilarity surprise error_map total predicted
    expected_error usual_steps varies along drawn_among cleaned answer embedded shared all_there moved seen sheet one
    outcomes do once apart on fresh finished look placed others ranked remarks page draw guessed twins gaps
    and_no_others nor_is_written_as_one the_target_is_what_agent_brightens a_style_that_is_told_is_the_targets
    """
)
FUNCTION_PREFIXES = ("refuse", "says_", "told_", "drawn_", "a_", "the_")

VARIABLES = words(
    """
    unlike_training measured coming heard everything guilty slab spread judge start_share lesion_share phantom_share
    likeness inject doubt familiar ancestor
    FAR MOST LIMIT SCORES OURS WHAT ENOUGH EVERY CLEARLY OFF WORTH RIVALS TAKEN_OVER PATIENCE FEWEST LEAST ALONG SIDES
    """
)
SHAPE_ALIASES = {"Image", "Mask", "Spacing"}  # Volume3D, Mask3D, Slice2D and VoxelSpacing say the shape

CONFIG_KEYS = words("spread slab start start_share lesion_share phantom_share judge structure inject restyle thick")
CONFIG_VALUES = {("fusion", "maps"), ("fusion", "scales"), ("select_by", "gain")}
SAVED_WORDS = words("spread slab unlike_training familiar ancestors doubts likeness judge phantom_share")

BRITISH = re.compile(
    r"(synthesis|normalis|optimis|initialis|standardis|summaris|visualis|organis|quantis|tokenis|recognis)(e|ed|er|es|ing|ation)\b"
    r"|colour|centre|grey|neighbour|behaviour"
)


def definitions(tree: ast.AST, *kinds: type) -> Iterator[tuple[str, int]]:
    """Names of functions or classes, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, kinds):
            yield node.name, node.lineno


def bindings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names of variables, parameters and attributes, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def identifiers(path: Path) -> list[tuple[str, int]]:
    tree = parse(path)
    return [*definitions(tree, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef), *bindings(tree)]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_is_renamed(module):
    assert not (PACKAGE / module).exists()
    assert not (PACKAGE / f"{module}.py").exists()
    folder, _, name = module.rpartition("/")
    assert not (ROOT / "tests" / folder / f"test_{name}.py").exists()


def test_classes_have_names_of_the_field():
    places = [
        f"{relative(path)}:{line} {name}"
        for path in PYTHON_FILES
        for name, line in definitions(parse(path), ast.ClassDef)
        if name in CLASSES
    ]
    assert not places, "\n".join(places)


def test_functions_have_names_of_the_field():
    places = []
    for path in PYTHON_FILES:
        for name, line in definitions(parse(path), ast.FunctionDef, ast.AsyncFunctionDef):
            plain = name.lstrip("_")
            if plain in FUNCTIONS or plain.startswith(FUNCTION_PREFIXES):
                places.append(f"{relative(path)}:{line} {name}")
    assert not places, "\n".join(places)


def test_variables_have_names_of_the_field():
    places = [
        f"{relative(path)}:{line} {name}"
        for path in PYTHON_FILES
        for name, line in bindings(parse(path))
        if name.lstrip("_") in VARIABLES
    ]
    assert not places, "\n".join(places)


def test_type_aliases_say_their_shape():
    places = []
    for path in PYTHON_FILES:
        for node in parse(path).body:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                places += [f"{relative(path)}:{line} {name}" for name, line in bindings(node) if name in SHAPE_ALIASES]
    assert not places, "\n".join(places)


def test_dsdiff_names_are_imported_without_alias():
    places = []
    for path in PYTHON_FILES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dsdiff":
                aliases = [alias for alias in node.names if alias.asname]
                places += [f"{relative(path)}:{node.lineno} {alias.name} as {alias.asname}" for alias in aliases]
    assert not places, "\n".join(places)


def test_identifiers_are_in_us_spelling():
    places = [
        f"{relative(path)}:{line} {name}"
        for path in PYTHON_FILES
        for name, line in identifiers(path)
        if BRITISH.search(name.replace("_", " ").lower())
    ]
    assert not places, "\n".join(places)


def config_items(block: object) -> Iterator[tuple[str, object]]:
    """Every key of a config with its value, at any depth."""
    if isinstance(block, dict):
        for key, value in block.items():
            yield str(key), value
            yield from config_items(value)
    elif isinstance(block, list):
        for item in block:
            yield from config_items(item)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_keys_have_names_of_the_field(path):
    items = list(config_items(yaml.safe_load(path.read_text())))
    assert not CONFIG_KEYS & {key for key, _ in items}
    assert not CONFIG_VALUES & {(key, value) for key, value in items if isinstance(value, str)}


def test_saved_files_have_names_of_the_field():
    places = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Constant) and node.value in SAVED_WORDS:
                places.append(f"{relative(path)}:{node.lineno} {node.value!r}")
    assert not places, "\n".join(places)
