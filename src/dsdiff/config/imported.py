"""What an import of a foreign config yields: a config of dsdiff, and a note on every key that it does not hold."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dsdiff.config.run import RunConfig
from dsdiff.errors import ConfigError

MAX_VALUE_LENGTH = 40  # of a value in a note
UNKNOWN_KEY = "dsdiff has no such setting"


@dataclass(frozen=True)
class ImportedConfig:
    """A converted config.

    Attributes:
        config: The config.
        notes: One line for every key that is missing from it or changes meaning, and for what its program does without
            a key.
    """

    config: RunConfig
    notes: tuple[str, ...]


class ConfigKeys:
    """The keys of a file with their values. A key that is taken counts as converted.

    Args:
        values: The file, as YAML holds it.
        nested_blocks: Dotted names of the blocks whose keys count one by one. Other blocks are values.

    Attributes:
        remaining: Keys that were not taken, with their values.
        notes: Remarks.
        refusals: Reasons why the file cannot be imported.
    """

    def __init__(self, values: Mapping[Any, Any], nested_blocks: Iterable[str] = ()) -> None:
        self.remaining = dict(_flatten_keys(values, frozenset(nested_blocks)))
        self.notes: list[str] = []
        self.refusals: list[str] = []

    def take(self, name: str, default: Any = None) -> Any:
        """Take the value of a key.

        Args:
            name: Dotted key.
            default: Value for a key that is absent or null.

        Returns:
            The value.
        """
        value = self.remaining.pop(name, None)
        return default if value is None else value

    def take_number(self, name: str, default: float, minimum: float = 0) -> float:
        """Take the value of a key that holds a number.

        Args:
            name: Dotted key.
            default: Value for a key that is absent or null.
            minimum: Smallest valid value.

        Returns:
            The number. Text that YAML does not read as a number (1e-4) is converted.

        Raises:
            ConfigError: The value is not a number, or is too small.
        """
        value = self.take(name, default)
        try:
            number = float(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if isinstance(number, bool) or not isinstance(number, int | float) or not number >= minimum:
            raise ConfigError(f"{name} is {_shorten(value)}; it must be a number of at least {minimum:g}")

        return number

    def take_count(self, name: str, default: int, minimum: int = 1) -> int:
        """Take the value of a key that holds an integer.

        Args:
            name: Dotted key.
            default: Value for a key that is absent or null.
            minimum: Smallest valid value.

        Returns:
            The integer.

        Raises:
            ConfigError: The value is not an integer, or is too small.
        """
        number = self.take_number(name, default, minimum)
        if math.isinf(number) or number != int(number):
            raise ConfigError(f"{name} is {number}; it must be an integer of at least {minimum}")

        return int(number)

    def translate(self, name: str, words: Mapping[str, str], default: str) -> str:
        """Take the value of a key and translate it.

        Args:
            name: Dotted key.
            words: Value of the file -> value of dsdiff.
            default: Value of the file for a key that is absent or null.

        Returns:
            The value of dsdiff.

        Raises:
            ConfigError: dsdiff has no counterpart.
        """
        value = self.take(name, default)
        if not isinstance(value, str) or value not in words:
            raise ConfigError(f"{name} is '{_shorten(value)}'; dsdiff knows {', '.join(words)}")

        return words[value]

    def add_note(self, name: str, value: Any, text: str) -> None:
        """Add a remark on a key.

        Args:
            name: Dotted key.
            value: Its value.
            text: What dsdiff does.
        """
        self.notes.append(f"{name} ({_shorten(value)}): {text}")

    def note_present(self, name: str, text: str) -> None:
        """Take a key and add a remark on it, if the file has it.

        Args:
            name: Dotted key.
            text: What dsdiff does.
        """
        value = self.take(name)
        if value is not None:
            self.add_note(name, value, text)

    def add_refusal(self, name: str, value: Any, reason: str) -> None:
        """Add a reason why the file cannot be imported.

        Args:
            name: Dotted key.
            value: Its value.
            reason: Why dsdiff cannot do what it asks for.
        """
        self.refusals.append(f"{name} ({_shorten(value)}): {reason}")

    def check_refusals(self, source: str) -> None:
        """Raise an error if a reason was added.

        Args:
            source: The file, for the message.

        Raises:
            ConfigError: The message lists all reasons.
        """
        if self.refusals:
            raise ConfigError(f"{source} cannot be imported: {'; '.join(self.refusals)}")

    def describe_unused(self, reasons: Mapping[str, str], implied_values: Mapping[str, Any]) -> list[str]:
        """Describe the keys that were not converted.

        Args:
            reasons: Why a key is not converted, by its dotted name or by its last part.
            implied_values: Values that ask for what dsdiff always does, by the last part of the key.

        Returns:
            One line per key, except those without a value and those that ask for what dsdiff always does.
        """
        lines = []
        for name, value in self.remaining.items():
            last_part = name.rsplit(".", 1)[-1]
            is_implied = last_part in implied_values and value == implied_values[last_part]
            if value not in (None, "") and not is_implied:
                reason = reasons.get(name) or reasons.get(last_part, UNKNOWN_KEY)
                lines.append(f"{name} ({_shorten(value)}): {reason}")

        return lines


def _flatten_keys(values: Mapping[Any, Any], nested_blocks: frozenset[str], prefix: str = "") -> list[tuple[str, Any]]:
    """Return dotted keys with their values, as deep as `nested_blocks` reaches."""
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in nested_blocks and isinstance(value, Mapping):
            pairs += _flatten_keys(value, nested_blocks, f"{name}.")
        else:
            pairs.append((name, value))

    return pairs


def _shorten(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 3]}..."
