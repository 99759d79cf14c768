"""An exported model: a folder of traced graphs that takes the place of a network and its weights.

A config and `export.json` lie beside the graphs. They name the tensors that the condition graph returns. Noise process,
sampler and steps still run in dsdiff.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dsdiff.conditioning.network import Conditioner
from dsdiff.errors import ConfigError, ModelError
from dsdiff.model import checkpoint
from dsdiff.model.metadata import ModelMetadata
from dsdiff.runtimes.formats import FORMATS, GraphRunner
from dsdiff.runtimes.graphs import CONDITION, DENOISE, condition_from_tensors, condition_to_tensors
from dsdiff.schema import ConfigModel
from dsdiff.system.device import has_bf16
from dsdiff.types import Condition, Fusion, Prediction

METADATA_FILE = "export.json"
FILE_KIND: Literal["a model of dsdiff as graphs"] = "a model of dsdiff as graphs"
_TRUSTED_FOLDERS: set[Path] = set()


class SourceModel(ConfigModel):
    """The model folder that was exported."""

    name: str
    hash: str


class NumericalParity(ConfigModel):
    """Agreement of two predictions.

    Attributes:
        difference: Largest absolute difference, as a share of the largest absolute value.
        psnr: In dB.
    """

    difference: float
    psnr: float

    @classmethod
    def worst(cls, parities: "Sequence[NumericalParity]") -> "NumericalParity":
        """Take the worst of several.

        Args:
            parities: One or more.

        Returns:
            The largest difference and the lowest PSNR.
        """
        return cls(
            difference=max(parity.difference for parity in parities), psnr=min(parity.psnr for parity in parities)
        )


class ExportMetadata(ConfigModel):
    """What `export.json` holds.

    Attributes:
        what: Kind of the file.
        format: Format of the graphs.
        precision: Precision in which the graphs run by default.
        multiple: Both sides of a slice must be multiples of this, in pixels.
        condition_outputs: Tensors that the condition graph returns, in order; empty without such a graph.
        source: The model folder that was exported.
        opset: Of ONNX; None for another format.
        parity: Agreement with the source model, by precision.
        versions: Versions of the packages that wrote the graphs.
        model: Metadata of the source model.
    """

    what: Literal["a model of dsdiff as graphs"] = FILE_KIND
    format: Literal["onnx", "openvino", "torch-export"]
    precision: Literal["fp32", "bf16"]
    multiple: int = Field(ge=1)
    condition_outputs: tuple[str, ...]
    source: SourceModel
    opset: int | None
    parity: dict[str, NumericalParity] = Field(default_factory=dict)
    versions: dict[str, str]
    model: ModelMetadata


@dataclass(frozen=True)
class ExportedNetwork:
    """A network computed by another runtime, with the `condition`, call and `multiple` of a `Network`.

    Attributes:
        graphs: Functions that run the graphs, by graph name.
        metadata: Contents of `export.json`.
        fusion: How the backbone reads the condition.
        precision: Precision in which the graphs run.
    """

    graphs: dict[str, GraphRunner]
    metadata: ExportMetadata
    fusion: Fusion
    precision: str

    @property
    def multiple(self) -> int:
        """Tell the multiple that both sides of a slice must be.

        Returns:
            Pixels.
        """
        return self.metadata.multiple

    @property
    def engine(self) -> str:
        """Name what runs the graphs.

        Returns:
            The runtime and its version.
        """
        runtime = FORMATS[self.metadata.format].runtime

        return f"{runtime} {version(runtime)}"

    @property
    def conditioner(self) -> Conditioner:
        """Refuse access to the layers, which a graph does not have.

        Raises:
            ModelError: Always.
        """
        raise ModelError(
            f"an exported model has no layers to read; give the model folder '{self.metadata.source.name}'"
        )

    def condition(
        self,
        sources: Float[Tensor, "b s d h w"],
        present: Bool[Tensor, "b s"],
        style: Float[Tensor, "b 1 h w"] | None = None,
    ) -> Condition:
        """Build the condition of a batch of slices.

        Args:
            sources: Context slices of the source contrasts, robust z-scores.
            present: Contrasts that each case has.
            style: The slices in the style of the target, robust z-scores; None for the average style.

        Returns:
            The condition.
        """
        tensors = {"sources": sources, "present": present}
        if self.metadata.condition_outputs:
            outputs = self._run(CONDITION, [sources, present], sources.device)
            tensors |= dict(zip(self.metadata.condition_outputs, outputs, strict=True))
        cond = condition_from_tensors(tensors, self.fusion)

        return cond if style is None else replace(cond, style=style)

    def __call__(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        (value,) = self._run(DENOISE, [x_t, t, *condition_to_tensors(cond).values()], x_t.device)

        return Prediction(value)

    def _run(self, graph: str, tensors: list[Tensor], device: torch.device) -> list[Tensor]:
        inputs = [tensor.cpu() if tensor.dtype == torch.bool else tensor.float().cpu() for tensor in tensors]
        outputs = self.graphs[graph]([tensor.contiguous() for tensor in inputs])

        return [tensor.to(device) for tensor in outputs]


def trust_folder(folder: Path) -> None:
    """Allow a folder to be loaded whose format can run code.

    Args:
        folder: Exported model that the user made or trusts.
    """
    _TRUSTED_FOLDERS.add(folder.resolve())


def is_exported(folder: Path) -> bool:
    """Tell whether a folder holds an exported model.

    Args:
        folder: Any folder.

    Returns:
        True for an exported model.
    """
    return (folder / METADATA_FILE).is_file()


def read_metadata(folder: Path) -> ExportMetadata:
    """Read the metadata of an exported model.

    Args:
        folder: Exported model.

    Returns:
        Contents of `export.json`.

    Raises:
        ModelError: The file is damaged.
    """
    try:
        return ExportMetadata.model_validate(json.loads((folder / METADATA_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:  # pydantic's errors are ValueErrors
        raise ModelError(f"{folder / METADATA_FILE} does not describe an exported model; export it again") from error


def write_metadata(folder: Path, metadata: ExportMetadata) -> None:
    """Write `export.json`.

    Args:
        folder: Exported model.
        metadata: What to write.
    """
    text = json.dumps(metadata.model_dump(mode="json"), indent=1)
    (folder / METADATA_FILE).write_text(text + "\n", encoding="utf-8")


def graph_files(folder: Path, metadata: ExportMetadata) -> dict[str, Path]:
    """Name the files of the graphs.

    Args:
        folder: Exported model.
        metadata: Its metadata.

    Returns:
        Files by graph name.
    """
    names = (CONDITION, DENOISE) if metadata.condition_outputs else (DENOISE,)

    return {name: folder / f"{name}{FORMATS[metadata.format].suffix}" for name in names}


def load_network(folder: Path, fusion: Fusion, device: torch.device, precision: str | None = None) -> ExportedNetwork:
    """Open the graphs of an exported model.

    Args:
        folder: Exported model.
        fusion: How the backbone reads the condition.
        device: Device to run on.
        precision: "fp32" or "bf16"; None for the one in the metadata. A machine without bf16 uses fp32.

    Returns:
        The network.

    Raises:
        ModelError: The graphs are damaged, or may run code and the folder is not trusted.
        ConfigError: The runtime is not installed, or does not run on the device.
    """
    metadata = read_metadata(folder)
    export_format = FORMATS[metadata.format]
    if export_format.can_run_code and folder.resolve() not in _TRUSTED_FOLDERS:
        raise ModelError(
            f"{folder} is a {metadata.format} archive, and loading one can run code that it contains; if you made or "
            f"trust it, pass --allow-code {folder} to dsdiff synth; else use the model folder that it was exported from"
        )

    export_format.check_installed(export_format.runtime)
    if device.type not in export_format.devices:
        devices_text = " or ".join(export_format.devices)
        raise ConfigError(f"{metadata.format} runs on {devices_text} here, not on {device}; give --device cpu")

    precision = precision or metadata.precision
    if precision != "fp32" and not has_bf16(device):
        precision = "fp32"

    try:
        graphs = {
            name: export_format.load(file, device.type, precision)
            for name, file in graph_files(folder, metadata).items()
        }
    except ConfigError:
        raise
    except Exception as error:  # each runtime has its own
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{folder}: {export_format.runtime} cannot open it ({reason})") from error

    return ExportedNetwork(graphs, metadata, fusion, precision)


def hash_folder(folder: Path) -> str:
    """Hash an exported model.

    Args:
        folder: Exported model.

    Returns:
        First 12 hex digits of the SHA-256 over all files, in the order of their names. The model card and hidden files
        do not count.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name != checkpoint.CARD_FILE and not file.name.startswith("."):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]
