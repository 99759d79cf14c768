"""dsdiff synthesises the contrast-enhanced brain MRI (T1ce) from T1, T2 and FLAIR. Research use, not for diagnosis."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "synthesize"]


def __getattr__(name: str) -> Any:
    """`dsdiff.synthesize` is imported when it is first asked for: torch takes seconds."""
    if name == "synthesize":
        return import_module("dsdiff.inference.pipeline").synthesize
    raise AttributeError(f"module 'dsdiff' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
