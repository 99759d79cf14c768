"""How a network is computed: in which number format and layout, by what.

The network as it was trained is the reference (`eager`); every other engine computes the same, faster, and agrees with
it within what `docs/performance.md` measures. An engine is one function of a network and a device in `ENGINES`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsdiff.conditioning.network import Network
from dsdiff.errors import ConfigError
from dsdiff.runtimes.network import ExportedNetwork
from dsdiff.system import device as devices
from dsdiff.types import Condition, Prediction

SLICES = {"cpu": 4, "mps": 4, "cuda": 16}  # computed at once


@dataclass(frozen=True)
class Engine:
    """A network ready to be computed. It takes and gives float32, whatever it computes in.

    precision: fp32, bf16 or fp16; layout: of the images in memory, "graphs" where another runtime decides. dtype: of
    what the network is given.
    """

    name: str
    network: Network | ExportedNetwork
    device: torch.device
    precision: str = "fp32"
    layout: str = "contiguous"
    dtype: torch.dtype = torch.float32
    autocast: bool = False

    @property
    def slices(self) -> int:
        """How many are computed at once. Nothing else changes it, so that no answer depends on threads or memory."""
        return SLICES[self.device.type]

    @property
    def workers(self) -> int:
        """Slices computed side by side: on a CPU one for each of torch's threads, where layers go on one thread each.

        Other runtimes share threads out within a layer; on other devices graphs belong to the thread that calls (0).
        """
        if self.device.type != "cpu":
            return 0
        return 1 if self.layout == GRAPHS else torch.get_num_threads()

    @property
    def says(self) -> str:
        """The engine in words, for console and provenance."""
        return (
            f"{self.name}: {self.precision}, {self.layout}{', autocast' if self.autocast else ''} on {self.device.type}"
        )

    def condition(
        self,
        sources: Float[Tensor, "b s d h w"],
        present: Bool[Tensor, "b s"],
        styled: Float[Tensor, "b 1 h w"] | None = None,
    ) -> Condition:
        """See `Network.condition`."""
        with self._scope():
            styled = None if styled is None else styled.to(self.dtype)
            return self.network.condition(sources.to(self.dtype), present, styled)

    def __call__(
        self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition
    ) -> Float[Tensor, "b c h w"]:
        """The network's answer at x_t and timestep t."""
        with self._scope():
            return self.network(x_t.to(self.dtype), t, cond).value.float()

    def _scope(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, DTYPES[self.precision]) if self.autocast else nullcontext()


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GRAPHS = "graphs"
OPENVINO = "openvino"  # a model that was exported on the fly: see `export.converted`


def eager(network: Network, device: torch.device) -> Engine:
    """As it was trained: float32, contiguous."""
    return Engine("eager", network, device)


def fast(network: Network, device: torch.device) -> Engine:
    """Weights held in the shortest format that the device computes in, channels last.

    Somebody else's layers may not take such weights: they are computed under autocast.
    """
    precision = _precision(device)
    if precision != "fp32" and not _ours(network):
        return Engine("fast", network, device, precision, autocast=True)
    dtype = DTYPES[precision]
    weights: Network = deepcopy(network).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Engine("fast", weights, device, precision, "channels_last", dtype)


def compiled(network: Network, device: torch.device) -> Engine:
    """`fast`, the backbone compiled and, on CUDA, captured as a graph for each shape: minutes at first, pays over many.

    Raises `ConfigError` for layers that `fast` takes under autocast only.
    """
    engine = fast(network, device)
    if engine.autocast:
        raise ConfigError("--engine compiled takes dsdiff's own backbones; somebody else's goes with --engine fast")
    weights = engine.network
    assert isinstance(weights, Network)
    backbone = torch.compile(weights.backbone, mode="reduce-overhead" if device.type == "cuda" else "default")
    weights.backbone = Captured(backbone) if device.type == "cuda" else backbone  # type: ignore[assignment]
    return engine


class Captured(nn.Module):
    """A compiled network whose answer is kept when its graph is replayed."""

    def __init__(self, network: Callable) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: object) -> Prediction:
        torch.compiler.cudagraph_mark_step_begin()
        answer: Prediction = self.network(*args)
        return replace(answer, value=answer.value.clone())  # the graph's own memory is written over by the next replay


ENGINES: dict[str, Callable[[Network, torch.device], Engine]] = {"eager": eager, "fast": fast, "compiled": compiled}


def build(name: str, network: Network | ExportedNetwork, device: torch.device) -> Engine:
    """The engine of a name; "auto" is `fast`, on MPS `eager`, and for an exported network the runtime it is for.

    Raises `ConfigError` for an unknown one, and for another than auto of an exported network.
    """
    if name not in ("auto", *ENGINES):
        raise ConfigError(f"engine '{name}' is unknown; there are: auto, {', '.join(ENGINES)}, {OPENVINO}")
    if isinstance(network, ExportedNetwork):
        if name != "auto":
            raise ConfigError(f"engine '{name}' is for model folders; an exported model is run by {network.engine}")
        return Engine(network.engine, network, device, network.precision, GRAPHS)
    return ENGINES[("eager" if device.type == "mps" else "fast") if name == "auto" else name](network, device)


def _precision(device: torch.device) -> str:
    if device.type == "cuda" and not devices.has_bf16(device):
        return "fp16"
    return devices.precision_of(device)


def _ours(network: nn.Module) -> bool:
    return all(type(module).__module__.startswith(("dsdiff.", "torch.")) for module in network.modules())
