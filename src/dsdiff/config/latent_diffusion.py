"""Convert configs of the latent-diffusion family, nested as model, params, unet_config.

Where such a file has keys of guided-diffusion in its params (`noise_schedule`, `diffusion_steps`), its trainer builds
the process from these.
"""

from collections.abc import Mapping
from typing import Any

from dsdiff.backbones import registry
from dsdiff.config import guided_diffusion
from dsdiff.config.guided_diffusion import GUIDED_PROCESS_KEYS, PREDICTIONS, convert_guided_process
from dsdiff.config.imported import ConfigKeys
from dsdiff.config.original_network import check_outputs, convert_contrasts, convert_network
from dsdiff.config.original_training import (
    DISENTANGLE_NOTE,
    EUCLIDEAN_NOTE,
    GENERAL_NOTES,
    LEARNED_VARIANCE,
    SAMPLING_NOTE,
    TRAINING_NOTE,
    convert_epochs,
    convert_loss,
    default_blocks,
)
from dsdiff.errors import ConfigError

MODEL = "model.params"
UNET = f"{MODEL}.unet_config"
NESTED_BLOCKS = (
    "model",
    MODEL,
    UNET,
    f"{UNET}.params",
    "data",
    "data.params",
    "lightning",
    "lightning.trainer",
)
SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear", "cosine": "cosine", "squaredcos_cap_v2": "cosine"}
LOSSES = {"l1": "l1", "l2": "l2", "mse": "l2", "charbonnie": "charbonnier", "charbonnier": "charbonnier"}
CONDITIONING_KEYS = ("concat", None)  # the others put text, a class or an embedding into the network
TRAINING_KEYS = {  # key of dsdiff -> key of latent diffusion
    "batch_size": "data.params.batch_size",
    "accumulate": "lightning.trainer.accumulate_grad_batches",
    "clip": "lightning.trainer.gradient_clip_val",
}
# Why a key is not converted, by its full name or by its last part.
REASONS = guided_diffusion.REASONS | {
    "model.target": "it names a class; dsdiff has process, backbone and training instead",
    "data.target": "it names a class; in dsdiff data.root names the folder of patients",
    "image_size": "networks take slices of any size; data.crop is the training size",
    "channels": "the image is one contrast, data.target",
    "learn_logvar": "its trainer does not use the learned weights of timesteps; dsdiff weights all alike",
    "first_stage_config": "dsdiff has no autoencoder; diffusion works on voxels",
    "cond_stage_config": "the condition is the contrasts themselves (conditioning)",
    "embedder_config": "the condition is the contrasts themselves (conditioning)",
    "noise_aug_config": "the condition is the contrasts themselves (conditioning)",
    "ViT_config": "its trainer uses unet_config unless model_type is vit; backbone=dit-table takes a transformer",
    "first_stage_key": "data.target names the contrast to synthesize",
    "cond_stage_key": "data.contrasts names the inputs",
    "cond_stage_trainable": "the condition is the contrasts themselves (conditioning)",
    "scale_factor": "it scales latents; process.params.scale scales robust z-scores",
    "ckpt_path": "a config holds no weights; dsdiff import-weights converts them",
    "monitor": "training.select_by selects the best weights",
    "scheduler_config": "the learning rate warms up over training.warmup steps and falls as a cosine",
    "original_elbo_weight": "the loss is the simple one",
    "v_posterior": "sampling takes the smaller variance",
    "linear_start": "the cosine schedule has no ends to set",
    "linear_end": "the cosine schedule has no ends to set",
    "log_every_t": "training.validate_every decides when images are written",
    "callbacks": "training.validate_every and training.save_every decide when images and states are written",
    "num_workers": "dsdiff train --workers sets it",
    "train": "data.root names the patients, data.split and data.fold those that are held out",
    "validation": "data.split and data.fold name the held-out patients",
}
UNUSED_HERE = "no effect there, since the network takes only what is in unet_config.params"
REASONS |= {
    f"{MODEL}.{key}": UNUSED_HERE
    for key in ("in_channel", "resblock_updown", "use_scale_shift_norm", "use_checkpoint", "dropout")
}
REASONS |= {
    f"{MODEL}.ema_rate": "no effect there, since use_ema decides; training.ema is the decay",
    f"{MODEL}.weight_decay": "no effect there: its trainer takes that of AdamW, 0.01, as training.weight_decay does",
    f"{MODEL}.lr_anneal_steps": "no effect there, since the learning rate falls as a cosine",
}
UNUSED_BETAS = "no effect there, since its trainer takes the betas of noise_schedule"
# Values that ask for what dsdiff always does, by the last part of the key.
IMPLIED_VALUES = {
    "channels": 1,
    "clip_denoised": False,
    "use_fp16": False,
    "learn_sigma": False,
    "learn_logvar": False,
    "v_posterior": 0,
    "original_elbo_weight": 0,
    "force_null_conditioning": False,
    "cond_stage_trainable": False,
    "microbatch": -1,
    "schedule_sampler": "uniform",
    "rescale_learned_sigmas": False,
    "lr_anneal_steps": 0,
}


def convert_latent_diffusion(values: Mapping[Any, Any]) -> tuple[dict[str, Any], ConfigKeys]:
    """Convert a config of the latent-diffusion family.

    Args:
        values: The file, as YAML holds it.

    Returns:
        Plain values of a config, and the keys of the file with notes, and with reasons if it cannot be imported.

    Raises:
        ConfigError: The target is unknown, or a value is invalid.
    """
    keys = ConfigKeys(values, NESTED_BLOCKS)
    target = keys.take(f"{UNET}.target")
    if not isinstance(target, str):
        raise ConfigError(f"{UNET}.target is {target}; it must name a class")
    registry.lookup(target)  # raises if it is unknown

    is_guided = any(f"{MODEL}.{key}" in keys.remaining for key in GUIDED_PROCESS_KEYS)
    _check_condition(keys)
    learns_variance = _take_learned_variance(keys)
    check_outputs(keys, f"{UNET}.params.out_channels", learns_variance)
    contrasts = convert_contrasts(keys, f"{UNET}.params.in_channels", target)
    backbone = convert_network(keys, f"{UNET}.params.", target, contrasts)

    config = default_blocks(backbone["target"])
    config["data"]["contrasts"] = list(contrasts)
    config["backbone"] = backbone
    if is_guided:
        for key in ("beta_schedule", "linear_start", "linear_end", "timesteps"):
            keys.note_present(f"{MODEL}.{key}", UNUSED_BETAS)
        config["process"] = convert_guided_process(keys, f"{MODEL}.")
        config["sampler"]["params"]["spacing"] = "linspace"
    else:
        config["process"] = _convert_process(keys)
    config["loss"] = convert_loss(keys, f"{MODEL}.loss_type", LOSSES, keys.take_number(f"{MODEL}.l_simple_weight", 1.0))
    config["training"] |= _convert_training(keys)
    if not is_guided:
        keys.notes.append(SAMPLING_NOTE)
    if config["conditioning"]["disentangle"]:
        keys.notes.append(DISENTANGLE_NOTE)
        if is_guided:
            keys.notes.append(EUCLIDEAN_NOTE)
    keys.notes += GENERAL_NOTES

    return config, keys


def _check_condition(keys: ConfigKeys) -> None:
    """Refuse latents and conditions that are not images."""
    conditioning_key = keys.take(f"{MODEL}.conditioning_key")
    if conditioning_key not in CONDITIONING_KEYS:
        keys.add_refusal(
            f"{MODEL}.conditioning_key",
            conditioning_key,
            "the condition is text, a class or an embedding; those of dsdiff are images beside x_t",
        )
    channels = keys.remaining.get(f"{MODEL}.channels")
    if channels not in (None, 1):
        keys.add_refusal(
            f"{MODEL}.channels",
            keys.take(f"{MODEL}.channels"),
            "diffusion works on latents or on color images; dsdiff synthesizes one contrast, voxel by voxel",
        )
    given_betas = keys.take(f"{MODEL}.given_betas")
    if given_betas is not None:
        keys.add_refusal(
            f"{MODEL}.given_betas", given_betas, "dsdiff has named schedules only, process.params.schedule"
        )


def _take_learned_variance(keys: ConfigKeys) -> bool:
    learns_variance = False
    for key in (f"{MODEL}.learn_sigma", f"{UNET}.params.learn_sigma"):
        if keys.take(key, False):
            keys.add_note(key, True, LEARNED_VARIANCE)
            learns_variance = True

    return learns_variance


def _convert_process(keys: ConfigKeys) -> dict[str, Any]:
    original_schedule = keys.remaining.get(f"{MODEL}.beta_schedule") or "linear"
    params: dict[str, Any] = {
        "schedule": keys.translate(f"{MODEL}.beta_schedule", SCHEDULES, "linear"),
        "timesteps": keys.take_count(f"{MODEL}.timesteps", 1000),
        "prediction": keys.translate(f"{MODEL}.parameterization", PREDICTIONS, "eps"),
    }
    if params["schedule"] != "cosine":
        params["beta_start"] = keys.take_number(f"{MODEL}.linear_start", 1e-4)
        params["beta_end"] = keys.take_number(f"{MODEL}.linear_end", 2e-2)
    cosine_offset = keys.take(f"{MODEL}.cosine_s")
    if params["schedule"] == "cosine" and cosine_offset not in (None, 0.008):
        keys.add_refusal(f"{MODEL}.cosine_s", cosine_offset, "the offset of the cosine schedule is 0.008 in dsdiff")

    if original_schedule == "linear":
        keys.add_note(
            f"{MODEL}.beta_schedule",
            "linear",
            "in latent diffusion it is linear in the square root of beta, which dsdiff names scaled_linear; "
            "use schedule: linear if the file is of another family",
        )

    return {"target": "ddpm", "params": params}


def _convert_training(keys: ConfigKeys) -> dict[str, Any]:
    training: dict[str, Any] = {}
    for name, key in TRAINING_KEYS.items():
        if keys.remaining.get(key) is not None:
            training[name] = keys.take(key)

    for key in ("model.base_learning_rate", f"{MODEL}.lr"):  # the trainer that reads the second ignores the first
        if keys.remaining.get(key) is not None:
            training["lr"] = keys.take_number(key, 0)
    if "lr" in training:
        keys.add_note(
            "model.base_learning_rate",
            training["lr"],
            "converted unchanged; latent diffusion multiplies it by batch size and number of GPUs unless started with "
            "--scale_lr False",
        )

    steps = keys.take("lightning.trainer.max_steps")
    epochs = keys.take("lightning.trainer.max_epochs")
    if steps is not None and steps != -1:
        training["steps"] = steps
    elif epochs is not None and epochs != -1:
        training["steps"] = convert_epochs(keys, "lightning.trainer.max_epochs", epochs)
    else:
        keys.notes.append(TRAINING_NOTE)

    return training | {"ema": 0.9999 if keys.take(f"{MODEL}.use_ema", True) else 0.0}
