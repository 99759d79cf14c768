"""A network as graphs of named tensors, for runtimes that know none of our classes.

`condition` makes of sources and present what the conditioner adds to them, once per slice; a network whose conditioner
adds nothing has no such graph. `denoise` makes of x_t, t and the whole condition the prediction, at every step.
Batch, height and width are dynamic: any batch, sides that are multiples of the network's `multiple`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dsdiff.conditioning.network import Network
from dsdiff.errors import ModelError
from dsdiff.types import Condition, Encoded, Inject

CONDITION, DENOISE = "condition", "denoise"


@dataclass(frozen=True)
class Graph:
    """A traced function with the names of what goes in and comes out, in order."""

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def added(cond: Condition) -> dict[str, Tensor]:
    """What a conditioner added to the sources, by name. Shared features are left out: they serve losses alone."""
    tensors = {} if cond.structure is None else {"structure": cond.structure}
    if cond.encoded is not None:
        for i, (common, specific) in enumerate(zip(cond.encoded.common, cond.encoded.specific, strict=True)):
            tensors |= {f"common{i}": common, f"specific{i}": specific}
    return tensors if cond.style is None else tensors | {"style": cond.style}


def flat(cond: Condition) -> dict[str, Tensor]:
    """A condition as named tensors."""
    return {"sources": cond.sources, "present": cond.present} | added(cond)


def restored(tensors: Mapping[str, Tensor], inject: Inject) -> Condition:
    """The condition that `flat` made these of."""
    common, specific = (
        tuple(tensors[name] for name in tensors if name.startswith(kind)) for kind in ("common", "specific")
    )
    encoded = Encoded((), specific, common) if common else None
    given = (tensors["sources"], tensors["present"], tensors.get("structure"))
    return Condition(*given, encoded, tensors.get("style"), inject)


class Conditioning(nn.Module):
    """`Network.condition` on tensors, in the average style."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, sources: Float[Tensor, "b s d h w"], present: Bool[Tensor, "b s"]) -> tuple[Tensor, ...]:
        return tuple(added(self.network.condition(sources, present)).values())


class Denoising(nn.Module):
    """A network's forward on tensors: x_t, t, and those of a condition by these names."""

    def __init__(self, network: Network, names: tuple[str, ...], inject: Inject) -> None:
        super().__init__()
        self.network, self.names, self.inject = network, names, inject

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], *told: Tensor) -> Float[Tensor, "b c h w"]:
        cond = restored(dict(zip(self.names, told, strict=True)), self.inject)
        return self.network(x_t, t, cond).value


def trace(network: Network, contrasts: int, slab: int) -> dict[str, Graph]:
    """The graphs of a network by name. Raises `ModelError` where it cannot be traced."""
    h, w = 3 * network.multiple, 5 * network.multiple
    sources, present = torch.zeros(2, contrasts, slab, h, w), torch.ones(2, contrasts, dtype=torch.bool)
    x_t, t = torch.zeros(2, 1, h, w), torch.zeros(2)
    with torch.no_grad():
        cond = network.condition(sources, present)
        told, made, graphs = flat(cond), tuple(added(cond)), {}
        if made:
            program = _traced(Conditioning(network), sources, present)
            graphs[CONDITION] = Graph(program, ("sources", "present"), made)
        denoise = Denoising(network, tuple(told), cond.inject)
        program = _traced(denoise, x_t, t, *told.values())
    return graphs | {DENOISE: Graph(program, ("x_t", "t", *told), ("value",))}


def _traced(module: Conditioning | Denoising, *args: Tensor) -> ExportedProgram:
    shapes = [_dynamic(arg) for arg in args]
    several = isinstance(module, Denoising)  # its last parameter takes all that remain
    try:
        return torch.export.export(
            module.eval(), args, dynamic_shapes=(*shapes[:2], tuple(shapes[2:])) if several else shapes, strict=False
        )
    except Exception as error:  # whatever torch has against a network, ours or somebody else's
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        backbone = type(module.network.backbone).__name__
        raise ModelError(f"{backbone} cannot be traced as a graph of dynamic shape ({reason})") from error


def _dynamic(tensor: Tensor) -> dict[int, object]:
    """The axes that may differ from call to call: the batch, and the two of an image."""
    image = (tensor.ndim - 2, tensor.ndim - 1) if tensor.ndim > 2 else ()
    return dict.fromkeys((0, *image), Dim.DYNAMIC)
