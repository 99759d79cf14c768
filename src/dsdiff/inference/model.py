"""A trained model, ready for synthesis: config, network, process, sampler and metadata."""

from collections.abc import Container
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dsdiff.conditioning.network import Network, add_backbone_prefix
from dsdiff.config.run import RunConfig, parse_config
from dsdiff.diffusion.process import NoiseProcess
from dsdiff.diffusion.samplers import Sampler
from dsdiff.errors import ConfigError, ModelError
from dsdiff.inference.engine import Engine, build_engine
from dsdiff.model import checkpoint
from dsdiff.model.metadata import ModelMetadata
from dsdiff.qc.membership import CaseFeatures
from dsdiff.runtimes.network import ExportedNetwork, hash_folder, is_exported, load_network

# Errors of reading a text that is no config. OmegaConf raises AssertionError for YAML that is not a mapping.
CONFIG_ERRORS = (ConfigError, OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError, AssertionError)

CHECKPOINT_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors", ".bin")
DEFAULT_MODEL = "default"
RUN_SUBFOLDERS = ("model", "best")  # model folders that a training run writes


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        name: Name of the model folder, for provenance.
        hash: Hash of the model folder, for provenance.
        config: Resolved config of the training run.
        network: The network, or an exported model in its place.
        process: Noise process.
        sampler: Sampler.
        device: Device that the network is on.
        engine_name: What computes the network in synthesis (see `dsdiff.inference.engine`).
        metadata: Record of the training, detectors and postprocessing included.
    """

    name: str
    hash: str
    config: RunConfig
    network: Network | ExportedNetwork
    process: NoiseProcess
    sampler: Sampler
    device: torch.device
    engine_name: str = "auto"
    metadata: ModelMetadata = field(default_factory=ModelMetadata, repr=False)

    @cached_property
    def engine(self) -> Engine:
        """Build what computes the network, once.

        Returns:
            The engine.
        """
        return build_engine(self.engine_name, self.network, self.device)

    @property
    def contrasts(self) -> tuple[str, ...]:
        """List the contrasts that the model reads.

        Returns:
            Names in the order of the network's input.
        """
        return self.config.data.contrasts

    @property
    def multiple(self) -> int:
        """Tell the multiple that both sides of a slice must be.

        Returns:
            Pixels.
        """
        return self.network.multiple

    def contrasts_to_read(self, available: Container[str]) -> tuple[str, ...]:
        """List the contrasts to read of a case.

        Args:
            available: Contrasts that the case has.

        Returns:
            Names; an optional contrast that the case lacks is left out.
        """
        optional = self.config.data.optional

        return tuple(name for name in self.contrasts if name in available or name not in optional)

    def trained_on(self, features: CaseFeatures) -> bool:
        """Tell whether the model, or a model that it started from, was trained on a case.

        Args:
            features: Features of the case (see `dsdiff.qc`).

        Returns:
            True for a training patient; False if the model has no record of its training patients.
        """
        indexes = (self.metadata.patient_index, *(record.index for record in self.metadata.lineage))

        return any(index is not None and index.contains(features) for index in indexes)


def shipped_models() -> list[str]:
    """List the models that come with the package.

    Returns:
        Names.
    """
    return sorted(path.name for path in files("dsdiff").joinpath("assets", "models").iterdir() if path.is_dir())


def resolve_model_path(name_or_folder: str | Path) -> Path:
    """Find the folder of a model.

    Args:
        name_or_folder: Name of a shipped model, or a folder.

    Returns:
        The folder.

    Raises:
        ModelError: There is neither.
    """
    folder, name = Path(name_or_folder), str(name_or_folder)
    if name in shipped_models():
        return Path(str(files("dsdiff").joinpath("assets", "models", name)))

    if folder.is_file():
        raise ModelError(f"{folder} is a file; {_file_remedy(folder)}")
    if not folder.is_dir():
        raise ModelError(
            f"model '{name}' is unknown: it is neither a folder nor a shipped model ({', '.join(shipped_models())})"
        )
    return folder


def _file_remedy(file: Path) -> str:
    """Word what to give instead of a file as a model."""
    if file.parent.joinpath(checkpoint.WEIGHTS_FILE).is_file():
        return f"a model is a folder: give {file.parent}"
    if file.suffix.lower() in CHECKPOINT_SUFFIXES:
        return f"make a model folder of the checkpoint with: dsdiff import-weights {file} -o FOLDER"
    return "a model folder is needed, of a training, of dsdiff export or of dsdiff import-weights"


def load_model(name_or_folder: str | Path, device: torch.device, engine: str = "auto") -> Model:
    """Load a model.

    Args:
        name_or_folder: Name of a shipped model, or a model folder, exported or not.
        device: Device to load it to.
        engine: What computes the network in synthesis (see `dsdiff.inference.engine`).

    Returns:
        The model.

    Raises:
        ModelError: There is no such model, or it is damaged, or an exported one may run code.
        ConfigError: The runtime of an exported model is not installed, or not for this device.
    """
    folder = resolve_model_path(name_or_folder)
    if is_exported(folder):
        return _load_exported(folder, device, engine)

    contents = checkpoint.read_model(folder)
    try:
        config = _parse_config(contents.config, folder)
        network = config.build_network()
        network.load_state_dict(add_backbone_prefix(contents.weights))
    except (*CONFIG_ERRORS, RuntimeError) as error:
        raise ModelError(f"{folder}: weights and config do not match ({_first_line(error)})") from error

    return Model(
        name=_model_name(folder),
        hash=contents.hash,
        config=config,
        network=network.eval().to(device),
        process=config.build_process(),
        sampler=config.build_sampler(),
        device=device,
        engine_name=engine,
        metadata=contents.metadata,
    )


def _load_exported(folder: Path, device: torch.device, engine: str) -> Model:
    try:
        config = _parse_config((folder / checkpoint.CONFIG_FILE).read_text(encoding="utf-8"), folder)
    except CONFIG_ERRORS as error:
        raise ModelError(f"{folder}: its config cannot be read ({_first_line(error)})") from error

    network = load_network(folder, config.conditioning.fusion, device)

    return Model(
        name=folder.name,
        hash=hash_folder(folder),
        config=config,
        network=network,
        process=config.build_process(),
        sampler=config.build_sampler(),
        device=device,
        engine_name=engine,
        metadata=network.metadata.model,
    )


def _model_name(folder: Path) -> str:
    """Name of a model folder; with the name of the run, if a run wrote it."""
    path = folder.resolve()

    return f"{path.parent.name}/{path.name}" if path.name in RUN_SUBFOLDERS else path.name


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _parse_config(text: str, folder: Path) -> RunConfig:
    values = OmegaConf.to_container(OmegaConf.create(text), resolve=False)

    return parse_config(values, f"{folder}/config.yaml")
