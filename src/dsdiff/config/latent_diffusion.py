"""Configs of the latent-diffusion family, nested as model, params, unet_config, turned into ours.

Every key is either taken over or named with the reason why not. Nothing that a file names is imported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dsdiff.backbones import registry
from dsdiff.config import overrides
from dsdiff.config import run as configs
from dsdiff.config.run import RunConfig
from dsdiff.errors import ConfigError
from dsdiff.schema import format_validation_error

MODEL, UNET = "model.params", "model.params.unet_config.params"
NESTS = {"model", MODEL, "model.params.unet_config", UNET, "data", "data.params", "lightning", "lightning.trainer"}
PREDICTIONS = {"eps": "eps", "x0": "x_0", "v": "v"}
SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear", "cosine": "cosine", "squaredcos_cap_v2": "cosine"}
LOSSES = {"l1": "l1", "l2": "l2", "mse": "l2", "charbonnier": "charbonnier"}
TRAINING = {  # our name -> theirs
    "lr": "model.base_learning_rate",
    "batch_size": "data.params.batch_size",
    "steps": "lightning.trainer.max_steps",
    "accumulate": "lightning.trainer.accumulate_grad_batches",
    "clip": "lightning.trainer.gradient_clip_val",
}
# why a key is not taken over, by its whole name or by the last part of it
REASONS = {
    "model.target": "it names a class; process, backbone and training stand for it here",
    "data.target": "it names a class; data.root names the folder of patients here",
    "image_size": "networks here take slices of any size; data.crop is the size trained on",
    "input_size": "networks here take slices of any size; data.crop is the size trained on",
    "channels": "the image is one contrast, data.target",
    "in_channels": "x_t and the condition make the number here (data.contrasts, data.context_slices, conditioning.edges)",
    "out_channels": "the network tells one number per voxel here, or two with process.params.predict_error; never a latent",
    "learn_sigma": "the variance of a step is not learned here",
    "learn_logvar": "the weight of a timestep is not learned here",
    "first_stage_config": "there is no autoencoder here; diffusion works on voxels",
    "cond_stage_config": "the condition is the contrasts themselves (conditioning)",
    "first_stage_key": "data.target names the contrast to synthesise",
    "cond_stage_key": "data.contrasts names the inputs",
    "conditioning_key": "the condition is concatenated unless conditioning.fusion or the backbone says otherwise",
    "ckpt_path": "weights are not taken over (docs/weights.md says which fit)",
    "monitor": "training.select_by says which weights are the best",
    "scheduler_config": "the rate warms up over training.warmup steps and falls as a cosine",
    "original_elbo_weight": "the loss is the simple one",
    "max_epochs": "training.steps counts steps, not epochs",
    "callbacks": "training.validate_every and training.save_every say when pictures and states are written",
    "num_workers": "dsdiff train --workers says it",
    "train": "data.root names the patients, data.split and data.fold who is held out",
    "validation": "data.split and data.fold say who is held out",
    "num_classes": "there are no classes here",
    "use_spatial_transformer": "there is no text to attend to",
    "context_dim": "there is no text to attend to",
    "use_fp16": "training.precision decides",
}
UNKNOWN = "dsdiff has no such setting"
# values that ask for what is so here anyway, by the last part of the key
SO_ANYWAY = {
    "conditioning_key": "concat",
    "channels": 1,
    "dims": 2,
    "clip_denoised": False,
    "learn_sigma": False,
    "use_fp16": False,
    "learn_logvar": False,
    "use_spatial_transformer": False,
    "v_posterior": 0,
    "original_elbo_weight": 0,
    "l_simple_weight": 1,
    "cosine_s": 0.008,
}


@dataclass(frozen=True)
class Imported:
    """A config of ours, and one line for every key that is not in it or says something else there."""

    config: RunConfig
    notes: tuple[str, ...]


class Keys:
    """The keys of a file with their values, given away one by one; what is left at the end was not honoured."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.left = dict(_flat(values))
        self.notes: list[str] = []

    def take(self, name: str, default: Any = None) -> Any:
        """The value of a key, which is honoured by that; the default where it is absent or null."""
        value = self.left.pop(name, None)
        return default if value is None else value

    def translate(self, name: str, words: Mapping[str, str], default: str) -> str:
        """The value of a key in our words. Raises `ConfigError` for one that we have no word for."""
        value = self.take(name, default)
        if value not in words:
            raise ConfigError(f"{name} is '{value}'; dsdiff knows {', '.join(words)}")
        return words[value]

    def leftovers(self) -> list[str]:
        """A line for every key that nobody took, but for those that ask for nothing, or for what is so here anyway."""
        lines = []
        for name, value in self.left.items():
            last = name.rsplit(".", 1)[-1]
            if value is not None and (last not in SO_ANYWAY or value != SO_ANYWAY[last]):
                lines.append(f"{name} ({_short(value)}): {REASONS.get(name) or REASONS.get(last, UNKNOWN)}")
        return lines


def load(path: Path) -> Imported:
    """Read a file. Raises `ConfigError` where it is not of that family, or asks for what dsdiff does not have."""
    values = overrides.read(path)
    keys = Keys(values if isinstance(values, dict) else {})
    if "model.params.unet_config.target" not in keys.left:
        raise ConfigError(f"{path} has no model.params.unet_config.target: it is not a latent-diffusion config")
    made = {
        "data": {"context_slices": 1},
        "conditioning": {"edges": "none"},
        "backbone": _backbone(keys),
        "process": _process(keys),
        "loss": _loss(keys),
        "training": _training(keys),
    }
    return Imported(configs.parse(made, str(path)), (*keys.notes, *keys.leftovers()))


def _backbone(keys: Keys) -> dict[str, Any]:
    """The network: every key that our class of that name knows, but for channels that the condition decides."""
    target = keys.take("model.params.unet_config.target")
    params_of = registry.lookup(target).Params  # type: ignore[attr-defined]
    known = params_of.model_fields.keys() - {"in_channels", "out_channels", *REASONS, *SO_ANYWAY, "adm_in_channels"}
    params = {name: keys.take(f"{UNET}.{name}") for name in sorted(known) if f"{UNET}.{name}" in keys.left}
    # -1 and null mean "not this way" there
    params = {name: value for name, value in params.items() if value is not None and value != -1}
    contrasts_and_x_t = 1 + len(RunConfig().data.contrasts)
    for name, expected in (("in_channels", contrasts_and_x_t), ("out_channels", 1)):
        if keys.left.get(f"{UNET}.{name}") == expected:
            params[name] = keys.take(f"{UNET}.{name}")
    try:
        params_of(**params)
    except ValidationError as error:
        raise ConfigError(f"{UNET} of '{target}': {format_validation_error(error)}") from error
    return {"target": registry.ALIASES.get(target, target), "params": params}


def _process(keys: Keys) -> dict[str, Any]:
    schedule = keys.left.get(f"{MODEL}.beta_schedule", "linear")
    params: dict[str, Any] = {
        "schedule": keys.translate(f"{MODEL}.beta_schedule", SCHEDULES, "linear"),
        "timesteps": keys.take(f"{MODEL}.timesteps", 1000),
        "prediction": keys.translate(f"{MODEL}.parameterization", PREDICTIONS, "eps"),
    }
    if params["schedule"] != "cosine":
        params["beta_start"] = keys.take(f"{MODEL}.linear_start", 1e-4)
        params["beta_end"] = keys.take(f"{MODEL}.linear_end", 2e-2)
    if schedule == "linear":
        keys.notes.append(
            f"{MODEL}.beta_schedule (linear): latent diffusion means linear in the square root of beta, which is "
            "scaled_linear here; take schedule: linear if the file is of another family"
        )
    return {"target": "ddpm", "params": params}


def _loss(keys: Keys) -> dict[str, Any]:
    """The loss, every voxel of the brain alike as it was there."""
    name = keys.left.get(f"{MODEL}.loss_type", "l2")
    target = keys.translate(f"{MODEL}.loss_type", LOSSES, "l2")
    if name == "mse":
        keys.notes.append(f"{MODEL}.loss_type (mse): taken as l2; some forks call a Charbonnier loss so")
    return {"target": target, "tumour": 1.0, "enhancing": 1.0}


def _training(keys: Keys) -> dict[str, Any]:
    found = {ours: keys.take(theirs) for ours, theirs in TRAINING.items() if keys.left.get(theirs) is not None}
    if "lr" in found:
        keys.notes.append(
            f"{TRAINING['lr']} ({found['lr']}): taken as it is; latent diffusion multiplies it by batch size and "
            "number of GPUs unless started with --scale_lr False"
        )
    return found | {"ema": 0.9999 if keys.take(f"{MODEL}.use_ema", True) else 0.0}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Keys with their values, dotted as far as the family's nests reach."""
    out: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        out += _flat(value, f"{name}.") if name in NESTS and isinstance(value, Mapping) else [(name, value)]
    return out


def _short(value: Any) -> str:
    """A value in a few words."""
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."
