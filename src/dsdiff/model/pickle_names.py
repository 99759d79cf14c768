"""Names of classes and functions that a checkpoint may hold, and inert placeholders for them.

A name is never imported. Names that hyper-parameters and training states hold become placeholders. Other names of the
standard library, such as `os.system`, have no use in a checkpoint and raise an error.
"""

import sys
from typing import Any

PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
BUILTIN_TYPES = (
    "bool bytearray bytes complex dict float frozenset int list long object range set slice str tuple unicode xrange"
)
STANDARD_NAMES = {
    *(f"builtins.{name}" for name in BUILTIN_TYPES.split()),
    "_codecs.encode",
    "argparse.Namespace",
    "collections.Counter",
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.deque",
    "copyreg._reconstructor",
    "decimal.Decimal",
    "fractions.Fraction",
    "functools.partial",
    "operator.getitem",
    "types.SimpleNamespace",
    "uuid.SafeUUID",
    "uuid.UUID",
}
STANDARD_MODULES = {"datetime", "pathlib", "typing"}  # all names of these may occur
# What a pickle may call outside the standard library; the call is skipped. Objects of other classes need no call.
CALLED_NAMES = {
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.numeric._frombuffer",
    "torch.device",
}
CALLED_PACKAGES = {
    "lightning",
    "lightning_fabric",
    "lightning_utilities",
    "omegaconf",
    "pytorch_lightning",
    "torchmetrics",
}

MAX_NAME_LENGTH = 200  # characters of a name that may be printed


class RefusedPickleError(Exception):
    """A pickle asks for something that weights do not need."""


class SkippedGlobal:
    """A class or function that a pickle names. It is not imported.

    Args:
        name: Dotted name.
    """

    def __init__(self, name: str) -> None:
        self.name = name


class SkippedObject:
    """An object of a skipped class, or the result of a skipped call.

    Args:
        name: Dotted name of the class or function.

    Attributes:
        state: State of the object as data; None if the pickle stores none.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Any = None


def is_readable(name: str) -> bool:
    """Tell whether a name from a file may be printed.

    Args:
        name: The name.

    Returns:
        False for a name that is very long, or has control characters.
    """
    return len(name) <= MAX_NAME_LENGTH and name.isprintable()


def skip_global(module: str, attribute: str) -> SkippedGlobal:
    """Make a placeholder for a class or function.

    Args:
        module: Dotted name of its module.
        attribute: Its name in the module.

    Returns:
        The placeholder.

    Raises:
        RefusedPickleError: The name belongs to the standard library and has no use in a checkpoint.
    """
    name = f"{PYTHON_2_MODULES.get(module, module)}.{attribute}"
    if not is_readable(name):
        raise RefusedPickleError("it names a class whose name is not readable text")

    package = name.split(".")[0]
    is_permitted = name in STANDARD_NAMES or package in STANDARD_MODULES
    if package in sys.stdlib_module_names and not is_permitted:
        raise RefusedPickleError(f"it names {name}, which could run code")

    return SkippedGlobal(name)


def skip_call(name: str, arguments: tuple[Any, ...]) -> SkippedObject:
    """Make a placeholder for the result of a call.

    Args:
        name: Name of the function or class, as `skip_global` returned it.
        arguments: Arguments of the call.

    Returns:
        The placeholder.

    Raises:
        RefusedPickleError: The function is neither of the standard library nor a known one of another package.
    """
    package = name.split(".")[0]
    is_permitted = package in sys.stdlib_module_names or package in CALLED_PACKAGES or name in CALLED_NAMES
    if not is_permitted:
        raise RefusedPickleError(f"it calls {name}, which could run code")

    is_object = name == "copyreg._reconstructor" and arguments and isinstance(arguments[0], SkippedGlobal)
    return SkippedObject(arguments[0].name if is_object else name)
