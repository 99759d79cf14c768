"""A trained model, ready to predict: its config, network, process and sampler."""

from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TypedDict

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dsdiff.conditioning.network import Network, named
from dsdiff.config import run as configs
from dsdiff.config.run import RunConfig
from dsdiff.diffusion.process import NoiseProcess
from dsdiff.diffusion.samplers import Sampler
from dsdiff.errors import ConfigError, ModelError
from dsdiff.inference import engine as engines
from dsdiff.inference.engine import Engine
from dsdiff.model import checkpoint, postprocess
from dsdiff.model.postprocess import Refinement
from dsdiff.qc import lineage, membership
from dsdiff.qc import ood as familiars
from dsdiff.qc.lineage import PretrainingRecord
from dsdiff.qc.membership import Measured, TrainingSetIndex
from dsdiff.qc.ood import Familiar
from dsdiff.runtimes import network as exported
from dsdiff.runtimes.network import ExportedNetwork
from dsdiff.style import retrieval as nearests
from dsdiff.style.retrieval import StyleRetriever

# What reading a config raises that is none: OmegaConf refuses other YAML than mappings by AssertionError.
NO_CONFIG = (ConfigError, OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError, AssertionError)

DEFAULT = "default"


@dataclass(frozen=True)
class Model:
    """`name` and `hash` go into provenance. `network` is as it was trained, `computed_by` what synthesis computes it by
    (see `engine`). familiar: what the training patients were like, where the model knows; nearest: which styles they
    had, where it is told the nearest ones'; known: how they measured, where it can say; ancestors: whom those that it
    began with were trained on. calibration: by which the error that the network expects is multiplied;
    refinement: how its answer is put together anew (see `refine`), None to take it as it is.
    """

    name: str
    hash: str
    config: RunConfig
    network: Network | ExportedNetwork
    process: NoiseProcess
    sampler: Sampler
    device: torch.device
    computed_by: str = "auto"
    familiar: Familiar | None = None
    nearest: StyleRetriever | None = None
    known: TrainingSetIndex | None = None
    ancestors: tuple[PretrainingRecord, ...] = ()
    calibration: float = 1.0
    refinement: Refinement | None = None

    @cached_property
    def engine(self) -> Engine:
        """What computes the network."""
        return engines.build(self.computed_by, self.network, self.device)

    @property
    def contrasts(self) -> tuple[str, ...]:
        """The contrasts that it takes."""
        return self.config.data.contrasts

    def wanted(self, available: Container[str]) -> tuple[str, ...]:
        """The contrasts to read of a case where these are available: all but those that are absent and may be."""
        return tuple(name for name in self.contrasts if name in available or name not in self.config.data.optional)

    def saw(self, measured: Measured) -> bool:
        """Whether a case that measures so is one of its training patients, or of its ancestors'."""
        known = (self.known, *(one.index for one in self.ancestors))
        return any(one is not None and one.contains(measured) for one in known)

    @property
    def multiple(self) -> int:
        """What the sides of a slice must be multiples of."""
        return self.network.multiple


def shipped() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.name for path in files("dsdiff").joinpath("assets", "models").iterdir() if path.is_dir())


def place(name_or_folder: str | Path) -> Path:
    """Where a shipped model, or the one in a folder, lies. Raises `ModelError` where there is neither."""
    folder, name = Path(name_or_folder), str(name_or_folder)
    if name in shipped():
        return Path(str(files("dsdiff").joinpath("assets", "models", name)))
    if not folder.is_dir():
        raise ModelError(
            f"model '{name}' is unknown: neither a folder nor one of those shipped ({', '.join(shipped())})"
        )
    return folder


def load(name_or_folder: str | Path, device: torch.device, engine: str = "auto") -> Model:
    """A shipped model by name, or a model folder, exported or not, by path.

    Raises `ModelError` for anything else or a damaged one, and what `exported.load` raises.
    """
    folder = place(name_or_folder)
    if exported.is_one(folder):
        return _exported(folder, device, engine)
    held = checkpoint.read(folder)
    try:
        config = _parsed(held.config, folder)
        network = config.build_network()
        network.load_state_dict(named(held.weights))
        calibration = float(held.facts.get("calibration", 1.0))
    except (*NO_CONFIG, RuntimeError) as error:
        raise ModelError(f"{folder}: weights and config do not make a model ({_first_line(error)})") from error
    told = {name: str(held.facts.get(name, "")) for name in ("familiar", "nearest", "known", "ancestors", "refinement")}
    return Model(
        _name(folder), held.hash, config, network.eval().to(device), config.build_process(), config.build_sampler(),
        device, engine, **_told(**told, where=str(folder)), calibration=calibration,
    )  # fmt: skip


def _exported(folder: Path, device: torch.device, engine: str) -> Model:
    try:
        config = _parsed((folder / checkpoint.CONFIG).read_text(encoding="utf-8"), folder)
    except NO_CONFIG as error:
        raise ModelError(f"{folder}: its config is no model's ({_first_line(error)})") from error
    network = exported.load(folder, config.conditioning.fusion, device)
    facts = network.facts
    told = _told(facts.familiar, facts.nearest, facts.known, facts.ancestors, facts.refinement, str(folder))
    return Model(
        folder.name, exported.digest(folder), config, network, config.build_process(), config.build_sampler(),
        device, engine, **told, calibration=facts.calibration,
    )  # fmt: skip


class Told(TypedDict):
    """What a model folder tells besides its network."""

    familiar: Familiar | None
    nearest: StyleRetriever | None
    known: TrainingSetIndex | None
    ancestors: tuple[PretrainingRecord, ...]
    refinement: Refinement | None


def _told(familiar: str, nearest: str, known: str, ancestors: str, refinement: str, where: str) -> Told:
    """From JSON; "" where a model does not know."""
    return {
        "familiar": familiars.parse(familiar, where) if familiar else None,
        "nearest": nearests.parse(nearest, where) if nearest else None,
        "known": membership.parse_index(known or nearest, where) if known or nearest else None,
        "ancestors": lineage.parse(ancestors, where),
        "refinement": postprocess.parse(refinement, where) if refinement else None,
    }


def _name(folder: Path) -> str:
    """What a model goes by: its folder's name, with that of the run whose model/ it is."""
    place = folder.resolve()
    return f"{place.parent.name}/{place.name}" if place.name in ("model", "best") else place.name


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _parsed(text: str, folder: Path) -> RunConfig:
    return configs.parse(OmegaConf.to_container(OmegaConf.create(text), resolve=False), f"{folder}/config.yaml")
