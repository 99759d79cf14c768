"""How a network is computed: in which number format and memory layout, and by which runtime.

The network as it was trained is the reference (`eager`). Every other engine computes the same faster.
docs/performance.md measures how closely they agree. An engine is a function of a network and a device in `ENGINES`.
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
from dsdiff.network_protocols import ConditionalNetwork
from dsdiff.runtimes.network import ExportedNetwork
from dsdiff.system.device import has_bf16, resolve_precision
from dsdiff.types import Condition, Prediction

BATCH_SIZES = {"cpu": 4, "mps": 4, "cuda": 16}  # slices, by type of device
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GRAPHS = "graphs"  # the layout of exported networks: another runtime decides it
OPENVINO = "openvino"  # a model that is exported on the fly, see `export.export_model`


@dataclass(frozen=True)
class Engine:
    """A network ready to be computed. Inputs and outputs are float32, whatever format it computes in.

    Attributes:
        name: Name in `ENGINES`, or the runtime and version of an exported network.
        network: The network in the engine's format.
        device: Where it is computed.
        precision: fp32, bf16 or fp16.
        layout: Memory layout of the images: contiguous, channels_last or graphs.
        dtype: Format of the images that the network receives.
        autocast: Whether layers choose their format themselves (torch.autocast).
    """

    name: str
    network: ConditionalNetwork
    device: torch.device
    precision: str = "fp32"
    layout: str = "contiguous"
    dtype: torch.dtype = torch.float32
    autocast: bool = False

    @property
    def multiple(self) -> int:
        """The number that height and width of a slice must be multiples of.

        Returns:
            1 or more.
        """
        return self.network.multiple

    @property
    def batch_size(self) -> int:
        """Number of slices computed at once. Only the device changes it, so results do not depend on threads or memory.

        Returns:
            1 or more.
        """
        return BATCH_SIZES[self.device.type]

    @property
    def workers(self) -> int:
        """Number of batches computed in parallel.

        Returns:
            On a CPU one for each of torch's threads; each layer then runs on one thread. 1 for other runtimes, which
            distribute threads within a layer. 0 on other devices, where CUDA graphs belong to the calling thread.
        """
        if self.device.type != "cpu":
            return 0
        return 1 if self.layout == GRAPHS else torch.get_num_threads()

    @property
    def label(self) -> str:
        """Describe the engine for console and provenance.

        Returns:
            A phrase such as "fast: bf16, channels_last on cpu".
        """
        autocast = ", autocast" if self.autocast else ""
        return f"{self.name}: {self.precision}, {self.layout}{autocast} on {self.device.type}"

    def condition(
        self,
        sources: Float[Tensor, "b s d h w"],
        present: Bool[Tensor, "b s"],
        style: Float[Tensor, "b 1 h w"] | None = None,
    ) -> Condition:
        """Build the condition of a batch of slices, see `Network.condition`.

        Args:
            sources: Robust z-scores.
            present: The contrasts that each case has.
            style: The slices rendered in the style of the target; None for the average style.

        Returns:
            The condition in the engine's format.
        """
        with self._autocast():
            style = None if style is None else style.to(self.dtype)
            return self.network.condition(sources.to(self.dtype), present, style)

    def __call__(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """Compute the network.

        Args:
            x_t: Noisy slices.
            t: Timesteps.
            cond: What `condition` returns.

        Returns:
            The prediction in float32.
        """
        with self._autocast():
            return Prediction(self.network(x_t.to(self.dtype), t, cond).value.float())

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, DTYPES[self.precision]) if self.autocast else nullcontext()


def eager(network: Network, device: torch.device) -> Engine:
    """Compute a network as it was trained: float32, contiguous.

    Args:
        network: The trained network.
        device: Where it is computed.

    Returns:
        The engine.
    """
    return Engine("eager", network, device)


def fast(network: Network, device: torch.device) -> Engine:
    """Compute a network in the shortest format of the device, channels last.

    Layers of other packages may not support such weights; a network that has some is computed under autocast.

    Args:
        network: The trained network, which stays as it is.
        device: Where it is computed.

    Returns:
        The engine.
    """
    precision = _fastest_precision(device)
    if precision != "fp32" and not _is_first_party(network):
        return Engine("fast", network, device, precision, autocast=True)

    dtype = DTYPES[precision]
    converted: Network = deepcopy(network).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Engine("fast", converted, device, precision, "channels_last", dtype)


def compiled(network: Network, device: torch.device) -> Engine:
    """Compile the backbone of `fast`; on CUDA it is captured as a graph for each shape.

    Compilation takes minutes, which pays over many cases.

    Args:
        network: The trained network, which stays as it is.
        device: Where it is computed.

    Returns:
        The engine.

    Raises:
        ConfigError: For layers that `fast` computes under autocast.
    """
    engine = fast(network, device)
    if engine.autocast:
        raise ConfigError("--engine compiled needs a backbone of dsdiff; take --engine fast for other packages' layers")

    converted = engine.network
    assert isinstance(converted, Network)
    backbone = torch.compile(converted.backbone, mode="reduce-overhead" if device.type == "cuda" else "default")
    converted.backbone = CUDAGraphModule(backbone) if device.type == "cuda" else backbone  # type: ignore[assignment]
    return engine


class CUDAGraphModule(nn.Module):
    """A compiled network whose output survives the next replay of its CUDA graph.

    Args:
        network: The compiled network.
    """

    def __init__(self, network: Callable) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: object) -> Prediction:
        """Compute the network and copy its output.

        Args:
            *args: The arguments of the network.

        Returns:
            The prediction in memory of its own.
        """
        torch.compiler.cudagraph_mark_step_begin()
        prediction: Prediction = self.network(*args)
        return replace(prediction, value=prediction.value.clone())  # the next replay overwrites the graph's own memory


ENGINES: dict[str, Callable[[Network, torch.device], Engine]] = {"eager": eager, "fast": fast, "compiled": compiled}


def build_engine(name: str, network: ConditionalNetwork, device: torch.device) -> Engine:
    """Build an engine by name.

    Args:
        name: A name in `ENGINES`, or "auto": the runtime of an exported network, `eager` on MPS, else `fast`.
        network: A trained or exported network.
        device: Where it is computed.

    Returns:
        The engine.

    Raises:
        ConfigError: For an unknown name, and for another name than "auto" for an exported network.
    """
    if name not in ("auto", *ENGINES):
        raise ConfigError(f"engine '{name}' is unknown; available are auto, {', '.join(ENGINES)}, {OPENVINO}")
    if isinstance(network, ExportedNetwork):
        if name != "auto":
            raise ConfigError(
                f"engine '{name}' is for model folders; {network.engine} runs this exported model: take --engine auto"
            )
        return Engine(network.engine, network, device, network.precision, GRAPHS)

    assert isinstance(network, Network)
    if name == "auto":
        name = "eager" if device.type == "mps" else "fast"
    return ENGINES[name](network, device)


def _fastest_precision(device: torch.device) -> str:
    if device.type == "cuda" and not has_bf16(device):
        return "fp16"
    return resolve_precision(device)


def _is_first_party(network: nn.Module) -> bool:
    """Whether all layers are of dsdiff or torch."""
    return all(type(module).__module__.startswith(("dsdiff.", "torch.")) for module in network.modules())
