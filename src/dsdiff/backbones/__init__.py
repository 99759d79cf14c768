"""Denoising networks. The classes with the constructors of the field are imported when they are first used."""

from importlib import import_module
from typing import Any

__all__ = ["DSUnetModel", "DiT", "UNetModel", "UNet_disc_Model", "disentangle_features"]


def __getattr__(name: str) -> Any:
    """Import a class or a function of `field_networks`."""
    if name in __all__:
        return getattr(import_module("dsdiff.backbones.field_networks"), name)
    raise AttributeError(f"module 'dsdiff.backbones' has no attribute '{name}'")
