"""A network as graphs of named tensors, for runtimes without dsdiff's classes.

`condition` maps sources and present to what the conditioner adds to them; it runs once a slice. A network whose
conditioner adds nothing has no such graph. `denoise` maps x_t, t and the condition to the prediction; it runs at every
step. Batch size, height and width are dynamic; height and width are multiples of the network's `multiple`.
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
from dsdiff.types import Condition, EncoderFeatures, Fusion

CONDITION, DENOISE = "condition", "denoise"


@dataclass(frozen=True)
class Graph:
    """A traced function.

    Attributes:
        program: The graph.
        inputs: Names of its inputs, in order.
        outputs: Names of its outputs, in order.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def added_tensors(cond: Condition) -> dict[str, Tensor]:
    """List what a conditioner added to the sources.

    Shared features of single contrasts are left out, because only losses read them.

    Args:
        cond: A condition.

    Returns:
        Tensors by name, in a fixed order.
    """
    tensors: dict[str, Tensor] = {}
    if cond.edges is not None:
        tensors["edges"] = cond.edges
    if cond.encoder_features is not None:
        features = cond.encoder_features
        for scale, (shared_mean, specific) in enumerate(zip(features.shared_mean, features.specific, strict=True)):
            tensors[f"shared_mean{scale}"] = shared_mean
            tensors[f"specific{scale}"] = specific
    if cond.style is not None:
        tensors["style"] = cond.style
    return tensors


def condition_to_tensors(cond: Condition) -> dict[str, Tensor]:
    """Name the tensors of a condition.

    Args:
        cond: A condition.

    Returns:
        Tensors by name: sources, present, and what the conditioner added.
    """
    return {"sources": cond.sources, "present": cond.present} | added_tensors(cond)


def condition_from_tensors(tensors: Mapping[str, Tensor], fusion: Fusion) -> Condition:
    """Build a condition from named tensors.

    Args:
        tensors: What `condition_to_tensors` returned.
        fusion: How the backbone reads the condition.

    Returns:
        The condition, without shared features.
    """
    shared_mean = tuple(tensors[name] for name in tensors if name.startswith("shared_mean"))
    specific = tuple(tensors[name] for name in tensors if name.startswith("specific"))
    features = EncoderFeatures((), specific, shared_mean) if shared_mean else None

    return Condition(
        tensors["sources"], tensors["present"], tensors.get("edges"), features, tensors.get("style"), fusion
    )


class ConditionGraph(nn.Module):
    """A conditioner that takes and returns tensors, in the average style."""

    def __init__(self, conditioner: Conditioner) -> None:
        super().__init__()
        self.conditioner = conditioner

    def forward(self, sources: Float[Tensor, "b s d h w"], present: Bool[Tensor, "b s"]) -> tuple[Tensor, ...]:
        return tuple(added_tensors(self.conditioner(sources, present)).values())


class DenoiseGraph(nn.Module):
    """A backbone that takes and returns tensors.

    Args:
        backbone: The backbone.
        names: Names of the condition's tensors, in the order of the inputs.
        fusion: How the backbone reads the condition.
    """

    def __init__(self, backbone: nn.Module, names: tuple[str, ...], fusion: Fusion) -> None:
        super().__init__()
        self.backbone = backbone
        self.names = names
        self.fusion = fusion

    def forward(
        self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], *condition_tensors: Tensor
    ) -> Float[Tensor, "b c h w"]:
        cond = condition_from_tensors(dict(zip(self.names, condition_tensors, strict=True)), self.fusion)

        return self.backbone(x_t, t, cond).value


def trace_graphs(network: Network, n_contrasts: int, context_slices: int) -> dict[str, Graph]:
    """Trace a network.

    Args:
        network: Network to trace.
        n_contrasts: Contrasts that it reads.
        context_slices: Slices that it reads of each.

    Returns:
        Graphs by name.

    Raises:
        ModelError: The network cannot be traced.
    """
    h, w = 3 * network.multiple, 5 * network.multiple
    sources = torch.zeros(2, n_contrasts, context_slices, h, w)
    present = torch.ones(2, n_contrasts, dtype=torch.bool)
    x_t, t = torch.zeros(2, 1, h, w), torch.zeros(2)

    graphs: dict[str, Graph] = {}
    with torch.no_grad():
        cond = network.condition(sources, present)
        outputs, tensors = tuple(added_tensors(cond)), condition_to_tensors(cond)
        if outputs:
            program = _export_program(ConditionGraph(network.conditioner), sources, present)
            graphs[CONDITION] = Graph(program, ("sources", "present"), outputs)

        denoise = DenoiseGraph(network.backbone, tuple(tensors), cond.fusion)
        program = _export_program(denoise, x_t, t, *tensors.values())
        graphs[DENOISE] = Graph(program, ("x_t", "t", *tensors), ("value",))

    return graphs


def _export_program(module: nn.Module, first: Tensor, second: Tensor, *variadic: Tensor) -> ExportedProgram:
    shapes: tuple[Any, ...] = (_dynamic_axes(first), _dynamic_axes(second))
    if variadic:
        shapes += (tuple(_dynamic_axes(tensor) for tensor in variadic),)

    size_oblivious = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]  # allows sizes of one
    try:
        with silence_logger("torch.export"), size_oblivious:
            return torch.export.export(module.eval(), (first, second, *variadic), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch raises many kinds
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        name = type(next(module.children())).__name__
        raise ModelError(f"{name} cannot be traced as a graph of dynamic shape ({reason})") from error


def _dynamic_axes(tensor: Tensor) -> dict[int, object]:
    """Axes whose size may change from call to call: the batch, and both axes of an image."""
    image_axes = (tensor.ndim - 2, tensor.ndim - 1) if tensor.ndim > 2 else ()

    return dict.fromkeys((0, *image_axes), Dim.DYNAMIC)


@contextmanager
def silence_logger(name: str) -> Iterator[None]:
    """Suppress torch's warnings, and messages of a logger below errors.

    Args:
        name: Name of the logger.

    Yields:
        Nothing.
    """
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
