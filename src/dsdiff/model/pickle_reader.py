"""Read pickles as data, without running anything that they name.

The reader interprets the opcodes itself. It imports no module, and calls only functions that its caller passes.
Everything else that a pickle names becomes an inert placeholder or raises an error (see `pickle_names`).
Source: the documentation of the opcodes in Python's module `pickletools`.
"""

import pickletools
import struct
from collections.abc import Callable, Mapping
from io import BufferedIOBase
from typing import Any

from dsdiff.model.pickle_names import RefusedPickleError, SkippedGlobal, SkippedObject, skip_call, skip_global

MAX_PICKLE_BYTES = 1 << 26  # of one pickle: a state dict of 10,000 tensors takes about 2 MB, and data lie outside it
READ_ERRORS = (ValueError, KeyError, IndexError, TypeError, OverflowError, EOFError, struct.error)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUE_OPCODES = """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES
    BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
    """
VALUE_OPCODE_NAMES = set(VALUE_OPCODES.split())
IGNORED_OPCODES = {"PROTO", "FRAME", "STOP"}
EMPTY_BUILDERS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
}
ITEM_BUILDERS: dict[str, Callable[[list[Any]], Any]] = {"TUPLE": tuple, "LIST": list, "FROZENSET": list}
TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

Builders = Mapping[str, Callable[..., Any]]


class LimitedReader:
    """Reads a file from its current position, and no more bytes than a limit.

    Args:
        file: The file.
        limit: Bytes.
    """

    def __init__(self, file: BufferedIOBase, limit: int) -> None:
        self.file = file
        self.remaining = limit

    def read(self, size: int) -> bytes:
        """Read bytes.

        Args:
            size: Number of bytes that the pickle claims.

        Returns:
            At most that many bytes.
        """
        return self._count(self.file.read(min(size, self.remaining)))

    def readline(self) -> bytes:
        """Read a line.

        Returns:
            The line with its end, or the bytes up to the limit.
        """
        return self._count(self.file.readline(self.remaining))

    def _count(self, data: bytes) -> bytes:
        self.remaining -= len(data)
        return data


class PickleReader:
    """Reads one pickle from the current position of a file.

    Args:
        file: The file. After `read` it stands behind the pickle.
        builders: By dotted name, functions to call for that name. They must be safe for any arguments.
        load_persistent: Converts a persistent id.
        limit: Largest size of the pickle in bytes.

    Attributes:
        skipped_names: Classes of the objects that were skipped, in the order of the file.
    """

    def __init__(
        self,
        file: BufferedIOBase,
        builders: Builders,
        load_persistent: Callable[[Any], Any],
        limit: int = MAX_PICKLE_BYTES,
    ) -> None:
        self.reader = LimitedReader(file, limit)
        self.builders = builders
        self.load_persistent = load_persistent
        self.skipped_names: list[str] = []
        self._stack: list[Any] = []
        self._outer_stacks: list[list[Any]] = []  # one for each open MARK
        self._memo: dict[int, Any] = {}

    def read(self) -> Any:
        """Read the pickle.

        Returns:
            Its value. A set is a list. Entries of dictionaries whose key is a container are left out.

        Raises:
            RefusedPickleError: The pickle names something that weights do not need.
            ValueError: Or another of `READ_ERRORS`: the pickle is damaged or larger than the limit.
        """
        for opcode, argument, _ in pickletools.genops(self.reader):  # type: ignore[arg-type]
            name = opcode.name
            if name in VALUE_OPCODE_NAMES:
                self._stack.append(argument)
            elif name in HANDLERS:
                HANDLERS[name](self, argument)
            elif name in CONSTANTS:
                self._stack.append(CONSTANTS[name])
            elif name in EMPTY_BUILDERS:
                self._stack.append(EMPTY_BUILDERS[name]())
            elif name in ITEM_BUILDERS:
                items = self._pop_mark()
                self._stack.append(ITEM_BUILDERS[name](items))
            elif name in TUPLE_SIZES:
                self._stack.append(tuple(self._pop(TUPLE_SIZES[name])))
            elif name not in IGNORED_OPCODES:
                raise RefusedPickleError(f"it uses the opcode {name}")

        (value,) = self._stack
        return value

    def _pop(self, size: int) -> list[Any]:
        """Remove the last values of the stack, in their order."""
        if len(self._stack) < size:
            raise IndexError("a value is missing on the stack")
        values = self._stack[-size:]
        del self._stack[-size:]
        return values

    def _pop_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._outer_stacks.pop()
        return items

    def _mark(self, argument: None) -> None:
        self._outer_stacks.append(self._stack)
        self._stack = []

    def _discard(self, argument: None) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _discard_mark(self, argument: None) -> None:
        self._pop_mark()

    def _duplicate(self, argument: None) -> None:
        self._stack.append(self._stack[-1])

    def _memoize(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _build_dict(self, argument: None) -> None:
        items = self._pop_mark()
        self._stack.append({})
        self._set_items(items)

    def _set_item(self, argument: None) -> None:
        self._set_items(self._pop(2))

    def _set_marked_items(self, argument: None) -> None:
        self._set_items(self._pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, SkippedObject):
            return
        if not isinstance(target, dict):
            raise TypeError(f"a {type(target).__name__} has no items to set")

        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, tuple | list | dict | bytearray):  # the hash of nested tuples may take forever
                target[key] = value

    def _append_item(self, argument: None) -> None:
        self._append_items(self._pop(1))

    def _append_marked_items(self, argument: None) -> None:
        self._append_items(self._pop_mark())

    def _append_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, SkippedObject):
            return
        if not isinstance(target, list):
            raise TypeError(f"a {type(target).__name__} cannot be appended to")
        target.extend(items)

    def _name_global(self, names: str) -> None:
        module, _, attribute = names.partition(" ")
        self._stack.append(self._find_global(module, attribute))

    def _name_stacked_global(self, argument: None) -> None:
        module, attribute = self._pop(2)
        self._stack.append(self._find_global(module, attribute))

    def _find_global(self, module: Any, attribute: Any) -> SkippedGlobal:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise TypeError("the name of a class is no text")
        return skip_global(module, attribute)

    def _reduce(self, argument: None) -> None:
        function, arguments = self._pop(2)
        self._stack.append(self._call(function, arguments))

    def _instantiate_named(self, names: str) -> None:
        arguments = tuple(self._pop_mark())
        module, _, attribute = names.partition(" ")
        self._stack.append(self._call(self._find_global(module, attribute), arguments))

    def _instantiate_marked(self, argument: None) -> None:
        function, *arguments = self._pop_mark()
        self._stack.append(self._call(function, tuple(arguments)))

    def _call(self, function: Any, arguments: Any) -> Any:
        """Call a builder, or make a placeholder for the result of another function."""
        if not isinstance(function, SkippedGlobal) or not isinstance(arguments, tuple):
            raise TypeError("a value is called that is no function")
        if function.name in self.builders:
            return self.builders[function.name](*arguments)

        return self._record(skip_call(function.name, arguments))

    def _create_object(self, argument: None) -> None:
        skipped_class, _ = self._pop(2)
        self._push_object(skipped_class)

    def _create_object_with_keywords(self, argument: None) -> None:
        skipped_class, _, _ = self._pop(3)
        self._push_object(skipped_class)

    def _push_object(self, skipped_class: Any) -> None:
        if not isinstance(skipped_class, SkippedGlobal):
            raise TypeError("an object has no class")
        self._stack.append(self._record(SkippedObject(skipped_class.name)))

    def _record(self, skipped: SkippedObject) -> SkippedObject:
        if skipped.name not in self.skipped_names and not skipped.name.startswith(("builtins.", "collections.")):
            self.skipped_names.append(skipped.name)
        return skipped

    def _set_state(self, argument: None) -> None:
        """Keep the state of a skipped object. Attributes of dictionaries and of tensors are left out."""
        target, state = self._pop(2)
        if isinstance(target, SkippedObject):
            target.state = state
        elif target is None or isinstance(target, SkippedGlobal | str | bytes | int | float | tuple | list):
            raise TypeError(f"a {type(target).__name__} has no state to set")
        self._stack.append(target)

    def _load_persistent(self, argument: None) -> None:
        (identifier,) = self._pop(1)
        self._stack.append(self.load_persistent(identifier))


HANDLERS: dict[str, Callable[[PickleReader, Any], None]] = {
    "MARK": PickleReader._mark,
    "POP": PickleReader._discard,
    "POP_MARK": PickleReader._discard_mark,
    "DUP": PickleReader._duplicate,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), PickleReader._memoize),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), PickleReader._recall),
    "DICT": PickleReader._build_dict,
    "SETITEM": PickleReader._set_item,
    "SETITEMS": PickleReader._set_marked_items,
    "APPEND": PickleReader._append_item,
    **dict.fromkeys(("APPENDS", "ADDITEMS"), PickleReader._append_marked_items),
    "GLOBAL": PickleReader._name_global,
    "STACK_GLOBAL": PickleReader._name_stacked_global,
    "REDUCE": PickleReader._reduce,
    "INST": PickleReader._instantiate_named,
    "OBJ": PickleReader._instantiate_marked,
    "NEWOBJ": PickleReader._create_object,
    "NEWOBJ_EX": PickleReader._create_object_with_keywords,
    "BUILD": PickleReader._set_state,
    "BINPERSID": PickleReader._load_persistent,
}
