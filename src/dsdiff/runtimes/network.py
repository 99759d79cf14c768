"""An exported model: a folder of graphs that stands in for a network, weights and all.

Config and facts beside the graphs say what a condition holds and which graph makes it; processes, samplers and steps
stay ours.
"""

import hashlib
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
from dsdiff.runtimes.formats import FORMATS, Run
from dsdiff.runtimes.graphs import CONDITION, DENOISE, flat, restored
from dsdiff.schema import ConfigModel
from dsdiff.system import device as devices
from dsdiff.types import Condition, Fusion, Prediction

FACTS = "export.json"
WHAT: Literal["a model of dsdiff as graphs"] = "a model of dsdiff as graphs"
_ALLOWED: set[Path] = set()


class Origin(ConfigModel):
    """The model folder that was exported."""

    name: str
    hash: str


class Agreement(ConfigModel):
    """How near two predictions are: the largest difference as a share of the largest value, and PSNR in dB."""

    difference: float
    psnr: float

    @classmethod
    def worst(cls, several: "list[Agreement]") -> "Agreement":
        """The largest difference and the lowest PSNR of several."""
        return cls(difference=max(one.difference for one in several), psnr=min(one.psnr for one in several))


class Facts(ConfigModel):
    """What an exported model says of itself.

    added: names of what the condition graph makes, in order; none without one. check: how near the export was to the
    network it was made from, by precision. familiar, nearest, known, ancestors, refinement (JSON, "" for none) and
    calibration: the model's.
    """

    what: Literal["a model of dsdiff as graphs"] = WHAT
    format: Literal["onnx", "openvino", "torch-export"]
    precision: Literal["fp32", "bf16"]
    multiple: int = Field(ge=1)
    added: tuple[str, ...]
    source: Origin
    opset: int | None
    check: dict[str, Agreement] = Field(default_factory=dict)
    familiar: str = ""
    nearest: str = ""
    known: str = ""
    ancestors: str = ""
    refinement: str = ""
    calibration: float = 1.0
    versions: dict[str, str]


@dataclass(frozen=True)
class ExportedNetwork:
    """What takes the place of a `Network`: the same `condition`, call and `multiple`, computed by another runtime."""

    graphs: dict[str, Run]
    facts: Facts
    inject: Fusion
    precision: str

    @property
    def multiple(self) -> int:
        """What the sides of a slice must be multiples of."""
        return self.facts.multiple

    @property
    def engine(self) -> str:
        """The runtime and its version."""
        runtime = FORMATS[self.facts.format].runtime
        return f"{runtime} {version(runtime)}"

    @property
    def conditioner(self) -> Conditioner:
        """Raises `ModelError`: a graph shows nothing of its inside."""
        raise ModelError(f"this needs the inside of the network; give the model folder '{self.facts.source.name}'")

    def condition(
        self,
        sources: Float[Tensor, "b s d h w"],
        present: Bool[Tensor, "b s"],
        styled: Float[Tensor, "b 1 h w"] | None = None,
    ) -> Condition:
        """See `Network.condition`."""
        tensors = {"sources": sources, "present": present}
        if self.facts.added:
            made = self._run(CONDITION, [sources, present], sources.device)
            tensors |= dict(zip(self.facts.added, made, strict=True))
        cond = restored(tensors, self.inject)
        return cond if styled is None else replace(cond, style=styled)

    def __call__(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        (value,) = self._run(DENOISE, [x_t, t, *flat(cond).values()], x_t.device)
        return Prediction(value)

    def _run(self, graph: str, tensors: list[Tensor], device: torch.device) -> list[Tensor]:
        given = [tensor.cpu() if tensor.dtype == torch.bool else tensor.float().cpu() for tensor in tensors]
        return [tensor.to(device) for tensor in self.graphs[graph]([tensor.contiguous() for tensor in given])]


def allow(folder: Path) -> None:
    """Let a folder be opened whose format can run code: one that the user made or trusts."""
    _ALLOWED.add(folder.resolve())


def is_one(folder: Path) -> bool:
    """Whether a folder holds an exported model."""
    return (folder / FACTS).is_file()


def read_facts(folder: Path) -> Facts:
    """What an exported model says of itself. Raises `ModelError` where it is damaged."""
    try:
        return Facts.model_validate_json((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # pydantic's errors are ValueErrors
        raise ModelError(f"{folder / FACTS} does not describe an exported model; export it again") from error


def write_facts(folder: Path, facts: Facts) -> None:
    """What `read_facts` reads."""
    (folder / FACTS).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")


def graph_files(folder: Path, facts: Facts) -> dict[str, Path]:
    """The files of the graphs by their names."""
    names = (CONDITION, DENOISE) if facts.added else (DENOISE,)
    return {name: folder / f"{name}{FORMATS[facts.format].suffix}" for name in names}


def load(folder: Path, inject: Fusion, device: torch.device, precision: str | None = None) -> ExportedNetwork:
    """Open the graphs of an exported model; bf16 becomes fp32 where the machine computes none.

    Raises `ModelError` where they are damaged or may run code, `ConfigError` where what runs them is not installed or
    not for this device.
    """
    facts = read_facts(folder)
    kind = FORMATS[facts.format]
    if kind.runs_code and folder.resolve() not in _ALLOWED:
        raise ModelError(
            f"{folder} is a {facts.format} archive, and loading one can run code that stands in it; if you made or "
            f"trust it, dsdiff synth takes --allow-code {folder}; else take the model folder it was made from"
        )
    kind.check_installed(kind.runtime)
    if device.type not in kind.devices:
        raise ConfigError(
            f"{facts.format} runs on {' or '.join(kind.devices)} here, not on {device}; give --device cpu"
        )
    wanted = precision or facts.precision
    taken = wanted if wanted == "fp32" or devices.has_bf16(device) else "fp32"
    try:
        graphs = {name: kind.open(file, device.type, taken) for name, file in graph_files(folder, facts).items()}
    except ConfigError:
        raise
    except Exception as error:  # each runtime has its own
        raise ModelError(f"{folder}: {kind.runtime} cannot open it ({str(error).strip().splitlines()[0]})") from error
    return ExportedNetwork(graphs, facts, inject, taken)


def digest(folder: Path) -> str:
    """First 12 hex digits of the SHA-256 over every file but the card and hidden ones, in the order of their names."""
    hashed = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name != checkpoint.CARD and not file.name.startswith("."):
            hashed.update(file.name.encode() + b"\0" + file.read_bytes())
    return hashed.hexdigest()[:12]
