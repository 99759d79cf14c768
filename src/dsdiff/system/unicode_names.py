"""Names of files as text that every reader takes, and back.

Python decodes the name of a file by the locale. Bytes that the locale does not know become lone surrogates, which no
JSON, CSV or HTML may hold. Here a name is read as UTF-8 in every locale, and a byte that is not UTF-8 is written as
`\\xe9`: a backslash, an x, and two hex digits.
"""

import os
import sys
import unicodedata
from typing import Any


def to_unicode(text: str) -> str:
    """Rewrite a text that may hold names of files as valid Unicode.

    Args:
        text: A name, or a text with names in it, as Python decoded them.

    Returns:
        The text as UTF-8 reads it; bytes that are not UTF-8 as `\\xe9`.
    """
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def to_case_name(text: str) -> str:
    """Rewrite a name of a file as the name of a case, which is the same on every machine.

    Args:
        text: The name as Python decoded it.

    Returns:
        Valid Unicode (see `to_unicode`), composed (NFC): macOS stores an umlaut as two characters.
    """
    return unicodedata.normalize("NFC", to_unicode(text))


def to_file_name(name: str) -> str:
    """Rewrite valid Unicode as a name that Python can pass to the file system in every locale.

    Args:
        name: A name of a case or a path.

    Returns:
        The name that stands for these characters in UTF-8 on the disk.
    """
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode(sys.getfilesystemencoding(), "surrogateescape")
    return name


def to_unicode_values(value: Any) -> Any:
    """Rewrite all text of a document, at any depth.

    Args:
        value: Nested dictionaries, lists and scalars, as JSON holds them.

    Returns:
        The same with valid Unicode.
    """
    if isinstance(value, str):
        return to_unicode(value)
    if isinstance(value, dict):
        return {to_unicode_values(key): to_unicode_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_unicode_values(item) for item in value]
    return value
