"""dsdiff synthesizes the contrast-enhanced brain MRI (T1ce) from T1, T2 and FLAIR. Research use, not for diagnosis."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "sample", "synthesize"]
MODULES = {"sample": "dsdiff.diffusion.sample", "synthesize": "dsdiff.inference.pipeline"}


def __getattr__(name: str) -> Any:
    """Import a function when it is first used, as torch takes seconds to import."""
    if name in MODULES:
        return getattr(import_module(MODULES[name]), name)
    raise AttributeError(f"module 'dsdiff' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
