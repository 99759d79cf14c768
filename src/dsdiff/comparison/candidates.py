"""Candidates of a comparison: configs that differ only in their backbone and in how it is trained."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsdiff import schema
from dsdiff.config.overrides import find_config, read_config
from dsdiff.config.run import RunConfig, load_config
from dsdiff.errors import ConfigError
from dsdiff.schema import TargetConfig, flatten_config

REGRESSION_NAME = "one-step regression"  # a baseline: the network of the reference without a diffusion process
# Candidates may differ in these keys: the network, and how its training is adjusted to it. The number of slices per
# step must agree, so that every candidate gets the same batches in the same order.
BACKBONE_KEYS = ("backbone", "training.lr", "training.warmup", "training.batch_size", "training.accumulate")
RUN_KEYS = ("seed", "data.fold", "training.steps", "training.validate_every", "training.save_every")


@dataclass(frozen=True)
class Candidate:
    """A named config. Its steps, seed and fold are placeholders: each `Run` sets its own."""

    name: str
    config: RunConfig

    @property
    def key(self) -> str:
        """Identifier in cache files; steps, seed and fold do not change it.

        Returns:
            The name and a hash of the config.
        """
        settings = shared_settings(self.config)
        return f"{self.name} {hashlib.sha256(repr(settings).encode()).hexdigest()[:12]}"


def shared_settings(config: RunConfig) -> list[tuple[str, object]]:
    """Return the settings that all runs of one candidate share.

    Args:
        config: A resolved config.

    Returns:
        Sorted (dotted key, value) pairs without steps, seed and fold.
    """
    return sorted((key, value) for key, value in flatten_config(config).items() if key not in RUN_KEYS)


def unfair_differences(config: RunConfig, other: RunConfig) -> list[str]:
    """List the settings that make a comparison of two configs unfair.

    Args:
        config: The first config.
        other: The second config.

    Returns:
        Lines "key: first / second"; empty if only the backbone and its training differ.
    """
    allowed_keys = (*BACKBONE_KEYS, *RUN_KEYS)
    differences = []
    for key, (value, other_value) in schema.diff_configs(config, other).items():
        if key not in allowed_keys and key.split(".")[0] not in allowed_keys:
            differences.append(f"{key}: {value} / {other_value}")

    slices, other_slices = (c.training.batch_size * c.training.accumulate for c in (config, other))
    if slices != other_slices:
        differences.append(f"slices per step (training.batch_size x training.accumulate): {slices} / {other_slices}")
    return differences


def check_comparable(candidates: Sequence[Candidate]) -> None:
    """Check that all candidates differ from the first one only in their backbone.

    Args:
        candidates: At least one candidate.

    Raises:
        ConfigError: Other settings differ; the message lists them.
    """
    first = candidates[0]
    for candidate in candidates[1:]:
        if differences := unfair_differences(first.config, candidate.config):
            raise ConfigError(
                f"{first.name} and {candidate.name} differ in more than the backbone ({'; '.join(differences[:5])}); "
                "set these keys to one value for all candidates by KEY=VALUE, or compare them separately"
            )


def load_candidates(names: Sequence[str], overrides: Sequence[str], recipe: str) -> list[Candidate]:
    """Load the candidates of a comparison.

    Args:
        names: Config files or names of shipped configs, the reference first. A file with only a backbone replaces the
            backbone of the recipe.
        overrides: KEY=VALUE changes for all of them.
        recipe: Name or path of the config that completes a file with only a backbone.

    Returns:
        One candidate for each name, in the same order.

    Raises:
        ConfigError: A config is invalid, a name is repeated, or configs differ in more than the backbone.
    """
    candidates = []
    for name in names:
        is_backbone = set(read_config(find_config(name))) <= {"backbone", "unet_config"}
        if is_backbone:
            config = load_config(recipe, (f"backbone={name}", *overrides))
        else:
            config = load_config(name, tuple(overrides))

        if leakage := selection_leakage(config):
            raise ConfigError(f"{name}: {leakage}; set training.ema to one decay and remove training.patience")
        candidates.append(Candidate(Path(name).stem, config))

    stems = [candidate.name for candidate in candidates]
    if repeated := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ConfigError(f"candidate {repeated[0]} is repeated; candidates are named after their files")
    check_comparable(candidates)
    return candidates


def selection_leakage(config: RunConfig) -> str:
    """Explain how the held-out patients would select the weights that are scored on them.

    Args:
        config: The config of a training.

    Returns:
        The reason; "" if the held-out patients select nothing.
    """
    if len(config.training.ema) > 1:
        return (
            "training.ema has several decays and the held-out patients select the best; "
            "scores on the same patients would be biased"
        )
    if config.training.patience:
        return (
            "training.patience stops training at the best step for the held-out patients; "
            "scores on the same patients would be biased"
        )
    return ""


def regression_baseline(reference: Candidate) -> Candidate | None:
    """Build the baseline that trains the network of the reference without diffusion.

    Args:
        reference: The reference candidate.

    Returns:
        The baseline; None if the reference is a one-step regression itself.
    """
    if reference.config.process.target == "regression":
        return None
    params = {"predict_error": True} if reference.config.build_process().predict_error else {}
    process = TargetConfig(target="regression", params=params)
    return Candidate(REGRESSION_NAME, reference.config.model_copy(update={"process": process, "sampler": None}))
