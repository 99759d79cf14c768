"""A network as graphs of named tensors, for runtimes that know none of our classes.

`condition` makes of sources and present what the conditioner adds to them, once per slice; a network whose conditioner
adds nothing has no such graph. `denoise` makes of x_t, t and the whole condition the prediction, at every step.
Batch, height and width are dynamic: any batch, sides that are multiples of the network's `multiple`.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from dsdiff.conditioning.network import Conditioner, Network
from dsdiff.errors import ModelError
from dsdiff.types import Condition, Encoded, Fusion

CONDITION, DENOISE = "condition", "denoise"


@dataclass(frozen=True)
class Graph:
    """A traced function with the names of what goes in and comes out, in order."""

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def added(cond: Condition) -> dict[str, Tensor]:
    """What a conditioner added to the sources, by name. Shared features are left out: they serve losses alone."""
    tensors = {} if cond.edges is None else {"edges": cond.edges}
    if cond.encoded is not None:
        for i, (common, specific) in enumerate(zip(cond.encoded.common, cond.encoded.specific, strict=True)):
            tensors |= {f"common{i}": common, f"specific{i}": specific}
    return tensors if cond.style is None else tensors | {"style": cond.style}


def flat(cond: Condition) -> dict[str, Tensor]:
    """A condition as named tensors."""
    return {"sources": cond.sources, "present": cond.present} | added(cond)


def restored(tensors: Mapping[str, Tensor], inject: Fusion) -> Condition:
    """The condition that `flat` made these of."""
    common, specific = (
        tuple(tensors[name] for name in tensors if name.startswith(kind)) for kind in ("common", "specific")
    )
    encoded = Encoded((), specific, common) if common else None
    given = (tensors["sources"], tensors["present"], tensors.get("edges"))
    return Condition(*given, encoded, tensors.get("style"), inject)


class Conditioning(nn.Module):
    """A conditioner on tensors, in the average style."""

    def __init__(self, conditioner: Conditioner) -> None:
        super().__init__()
        self.conditioner = conditioner

    def forward(self, sources: Float[Tensor, "b s d h w"], present: Bool[Tensor, "b s"]) -> tuple[Tensor, ...]:
        return tuple(added(self.conditioner(sources, present)).values())


class Denoising(nn.Module):
    """A backbone on tensors: x_t, t, and those of a condition by these names."""

    def __init__(self, backbone: nn.Module, names: tuple[str, ...], inject: Fusion) -> None:
        super().__init__()
        self.backbone, self.names, self.inject = backbone, names, inject

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], *told: Tensor) -> Float[Tensor, "b c h w"]:
        cond = restored(dict(zip(self.names, told, strict=True)), self.inject)
        return self.backbone(x_t, t, cond).value


def trace(network: Network, contrasts: int, slab: int) -> dict[str, Graph]:
    """The graphs of a network by name. Raises `ModelError` where it cannot be traced."""
    h, w = 3 * network.multiple, 5 * network.multiple
    sources, present = torch.zeros(2, contrasts, slab, h, w), torch.ones(2, contrasts, dtype=torch.bool)
    x_t, t = torch.zeros(2, 1, h, w), torch.zeros(2)
    with torch.no_grad():
        cond = network.condition(sources, present)
        told, made, graphs = flat(cond), tuple(added(cond)), {}
        if made:
            program = _traced(Conditioning(network.conditioner), sources, present)
            graphs[CONDITION] = Graph(program, ("sources", "present"), made)
        denoise = Denoising(network.backbone, tuple(told), cond.fusion)
        program = _traced(denoise, x_t, t, *told.values())
    return graphs | {DENOISE: Graph(program, ("x_t", "t", *told), ("value",))}


def _traced(module: nn.Module, first: Tensor, second: Tensor, *others: Tensor) -> ExportedProgram:
    shapes: tuple[Any, ...] = (_dynamic(first), _dynamic(second))
    if others:
        shapes += (tuple(_dynamic(other) for other in others),)
    oblivious = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]  # a batch or a side may be one
    try:
        with quiet("torch.export"), oblivious:
            return torch.export.export(module.eval(), (first, second, *others), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever torch has against a network, ours or somebody else's
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        traced = type(next(module.children())).__name__
        raise ModelError(f"{traced} cannot be traced as a graph of dynamic shape ({reason})") from error


def _dynamic(tensor: Tensor) -> dict[int, object]:
    """The axes that may differ from call to call: the batch, and the two of an image."""
    image = (tensor.ndim - 2, tensor.ndim - 1) if tensor.ndim > 2 else ()
    return dict.fromkeys((0, *image), Dim.DYNAMIC)


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Without torch's warnings about itself, and those of a logger of its."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
