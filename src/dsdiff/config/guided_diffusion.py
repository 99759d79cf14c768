"""Convert flat configs in the style of guided-diffusion, as DisC-Diff has them.

Its betas are linear, from 1e-4 to 0.02, scaled by 1000 / diffusion_steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dsdiff.backbones.registry import REFERENCE_DISC_UNET, REFERENCE_UNET
from dsdiff.config.imported import ConfigKeys
from dsdiff.config.original_network import (
    INERT_PARAMS,
    REQUIRED_VALUES,
    check_outputs,
    convert_contrasts,
    convert_network,
)
from dsdiff.config.original_training import (
    CHARBONNIER_EPSILON,
    CHARBONNIER_NOTE,
    DISENTANGLE_NOTE,
    GENERAL_NOTES,
    LEARNED_VARIANCE,
    SAMPLING_STEPS,
    default_blocks,
)
from dsdiff.errors import ConfigError

DISC_STRUCTURE = {"channel_mult": [1, 1, 2, 2, 3, 3], "attention_resolutions": [8, 16, 32]}  # written in its code
RGB_CHANNELS = 3
BETA_START, BETA_END, REFERENCE_TIMESTEPS = 1e-4, 0.02, 1000
GUIDED_PROCESS_KEYS = ("noise_schedule", "diffusion_steps")
# Multipliers that guided-diffusion takes for a size of image, if channel_mult is empty.
CHANNEL_MULT_BY_SIZE: dict[int, list[float]] = {
    64: [1, 2, 3, 4],
    128: [1, 1, 2, 3, 4],
    256: [1, 1, 2, 2, 4, 4],
    512: [0.5, 1, 1, 2, 2, 4, 4],
}
NETWORK_KEYS = {  # key of a file -> parameter of a UNet
    "num_channels": "model_channels",
    "num_res_blocks": "num_res_blocks",
    "num_heads": "num_heads",
    "num_head_channels": "num_head_channels",
    "num_heads_upsample": "num_heads_upsample",
    "dropout": "dropout",
    "use_scale_shift_norm": "use_scale_shift_norm",
    "resblock_updown": "resblock_updown",
    "use_checkpoint": "use_checkpoint",
    "use_new_attention_order": "use_new_attention_order",
    "use_fp16": "use_fp16",
}
UNET_DEFAULTS = {  # of guided-diffusion, where they differ from ours
    "model_channels": 128,
    "num_heads": 4,
    "use_scale_shift_norm": True,
}
PREDICTIONS = {"eps": "eps", "x0": "x_0", "v": "v"}
SCHEDULES = {"linear": "linear", "cosine": "cosine"}
SAMPLERS = {"ddim": "ddim", "guided": "ancestral"}
# DisC-Diff's training loop ends after so many steps: its own one, and that of the original system for brain MRI.
TRAINING_STEPS = {"hr_data_dir": 200_000, "ce_data_dir": 70_000}
DATA_FOLDER = "data.root names a folder of patients, data.contrasts the contrasts"
REASONS = {
    "hr_data_dir": "the image to synthesize; " + DATA_FOLDER,
    "ce_data_dir": "the image to synthesize; " + DATA_FOLDER,
    "data_config": "data.split and data.fold name the held-out patients",
    "data_dir": DATA_FOLDER,
    "model_path": "a config holds no weights; dsdiff import-weights converts them",
    "resume_checkpoint": "dsdiff train continues a run by itself; training.init_from takes weights",
    "base_samples": "synthesis reads a folder of patients",
    "num_samples": "dsdiff synth synthesizes every slice of a patient",
    "itk_save_dir": "dsdiff synth --out names the folder",
    "clip_denoised": "x_0 is not clipped, since robust z-scores have no range",
    "schedule_sampler": "timesteps are drawn uniformly",
    "fp16_scale_growth": "training.precision fp16 scales the loss by itself",
    "log_interval": "losses of every step are in log.jsonl",
    "save_interval": "training.save_every counts steps",
    "microbatch": "training.accumulate adds up parts of a batch",
    "rescale_learned_sigmas": "dsdiff does not learn the variance of a step",
    "timestep_respacing": "sampler.params.steps counts the steps of sampling",
}
# Values that ask for what dsdiff always does.
IMPLIED_VALUES = {
    "clip_denoised": False,
    "schedule_sampler": "uniform",
    "rescale_learned_sigmas": False,
    "class_cond": False,
    "microbatch": -1,
}


def convert_guided_diffusion(values: Mapping[Any, Any]) -> tuple[dict[str, Any], ConfigKeys]:
    """Convert a flat config in the style of guided-diffusion.

    Args:
        values: The file, as YAML holds it.

    Returns:
        Plain values of a config, and the keys of the file with notes, and with reasons if it cannot be imported.

    Raises:
        ConfigError: A value is invalid.
    """
    keys = ConfigKeys(values)
    is_disc_diff = "in_channel" in keys.remaining
    learns_variance = bool(keys.take("learn_sigma", False))
    if learns_variance:
        keys.add_note("learn_sigma", True, LEARNED_VARIANCE)

    network, contrasts = _convert_disc_network(keys) if is_disc_diff else _convert_unet(keys, learns_variance)
    config = default_blocks(network["target"])
    config["backbone"] = network
    config["data"]["contrasts"] = contrasts
    image_size = keys.take("image_size")
    if image_size is not None:
        config["data"]["crop"] = [image_size, image_size]
        keys.add_note("image_size", image_size, "became data.crop, the training size; networks take slices of any size")

    config["process"] = convert_guided_process(keys, "")
    config["sampler"] = _convert_sampler(keys)
    config["loss"] = {"target": "l2", "tumour": 1.0, "enhancing": 1.0}
    if is_disc_diff:
        config["loss"] |= {"target": "charbonnier", "epsilon": CHARBONNIER_EPSILON}
        keys.notes.append(f"loss: the code of DisC-Diff computes {CHARBONNIER_NOTE}")
        keys.notes.append(DISENTANGLE_NOTE)
    config["training"] |= _convert_training(keys)
    keys.notes += GENERAL_NOTES

    return config, keys


def convert_guided_process(keys: ConfigKeys, prefix: str) -> dict[str, Any]:
    """Convert the process of guided-diffusion.

    Args:
        keys: The file. The keys of the process are taken.
        prefix: Dotted name of their block, with a final dot; "" for the whole file.

    Returns:
        The `process` block.

    Raises:
        ConfigError: A value is invalid.
    """
    timesteps = keys.take_count(f"{prefix}diffusion_steps", REFERENCE_TIMESTEPS)
    schedule = keys.translate(f"{prefix}noise_schedule", SCHEDULES, "linear")
    predicts_x_0 = keys.take(f"{prefix}predict_xstart", False)
    prediction = keys.translate(f"{prefix}parameterization", PREDICTIONS, "x0" if predicts_x_0 else "eps")
    params: dict[str, Any] = {"schedule": schedule, "timesteps": timesteps, "prediction": prediction}
    if schedule == "linear":
        scale = REFERENCE_TIMESTEPS / timesteps
        params |= {"beta_start": scale * BETA_START, "beta_end": scale * BETA_END}

    if keys.take(f"{prefix}use_kl", False):
        keys.add_refusal(f"{prefix}use_kl", True, "its loss is the variational bound, which dsdiff does not have")
    if keys.take(f"{prefix}rescale_timesteps", False) and timesteps != REFERENCE_TIMESTEPS:
        keys.add_refusal(
            f"{prefix}rescale_timesteps",
            True,
            f"the network gets times scaled to {REFERENCE_TIMESTEPS}; those of dsdiff get steps of the schedule",
        )

    return {"target": "ddpm", "params": params}


def _convert_disc_network(keys: ConfigKeys) -> tuple[dict[str, Any], list[str]]:
    """Convert the network of DisC-Diff, whose multipliers and attention are written in its code."""
    channels = keys.take("in_channel")
    if channels not in (None, 1):
        keys.add_refusal("in_channel", channels, "every stream of the network takes one image, which is one channel")
    keys.take("attention_resolutions")  # its code does not read it

    is_super_resolution = "lr_data_dir" in keys.remaining
    contrasts = ["t1", "t2"] if is_super_resolution else ["t1", "t2", "flair"]
    for key in ("lr_data_dir", "other_data_dir", "t1_data_dir", "t2_data_dir", "dwi_data_dir"):
        keys.note_present(key, f"an input; data.contrasts is [{', '.join(contrasts)}], put yours there in their order")

    return _convert_params(keys, DISC_STRUCTURE, REFERENCE_DISC_UNET, contrasts), contrasts


def _convert_unet(keys: ConfigKeys, learns_variance: bool) -> tuple[dict[str, Any], list[str]]:
    """Convert the UNet of guided-diffusion, if its input and output channels were changed for MRI."""
    for key, reason in (
        ("class_cond", "the network has a class embedding, which dsdiff does not have"),
        ("small_size", "the network takes an image at lower resolution; those of dsdiff take contrasts"),
    ):
        value = keys.take(key, False)
        if value:
            keys.add_refusal(key, value, reason)
    if keys.remaining.get("in_channels") is None:
        keys.add_refusal(
            "in_channels", RGB_CHANNELS, "the network takes and returns color images; dsdiff takes contrasts"
        )
    contrasts = convert_contrasts(keys, "in_channels", REFERENCE_UNET)
    check_outputs(keys, "out_channels", learns_variance)

    image_size = keys.take_count("image_size", 64)
    keys.remaining["image_size"] = image_size
    channel_mult = _split_numbers(keys, "channel_mult") or CHANNEL_MULT_BY_SIZE.get(image_size)
    if channel_mult is None:
        raise ConfigError(f"channel_mult is empty, and guided-diffusion has none for image_size {image_size}")
    resolutions = _split_numbers(keys, "attention_resolutions") or [16, 8]
    structure = UNET_DEFAULTS | {
        "channel_mult": channel_mult,
        "attention_resolutions": [image_size // int(resolution) for resolution in resolutions],
    }
    return _convert_params(keys, structure, REFERENCE_UNET, contrasts), list(contrasts)


def _convert_params(
    keys: ConfigKeys, structure: Mapping[str, Any], target: str, contrasts: Sequence[str]
) -> dict[str, Any]:
    """Convert the network under the names of its parameters. The file replaces values of `structure`."""
    params = dict(structure)
    names = NETWORK_KEYS | {param: param for param in (*REQUIRED_VALUES, *INERT_PARAMS) if param != "image_size"}
    for key, param in names.items():
        value = keys.take(key)
        if value is not None:
            params[param] = value

    network_keys = ConfigKeys(params)
    backbone = convert_network(network_keys, "", target, contrasts)
    keys.notes += network_keys.notes
    keys.refusals += network_keys.refusals
    return backbone


def _split_numbers(keys: ConfigKeys, key: str) -> list[float]:
    """Take a list that is written as text, such as 32,16,8."""
    text = keys.take(key, "")
    try:
        return [float(number) if "." in number else int(number) for number in str(text).split(",") if number.strip()]
    except ValueError as error:
        raise ConfigError(f"{key} is '{text}'; it must be numbers with commas, such as 32,16,8") from error


def _convert_sampler(keys: ConfigKeys) -> dict[str, Any]:
    sampler = keys.translate("sampling_method", SAMPLERS, "ddim")
    if sampler == "ancestral":
        keys.notes.append("sampling_method (guided): sampled with the smaller fixed variance, not with a learned one")
    respacing = str(keys.take("timestep_respacing", ""))
    spacing = "leading" if respacing.startswith("ddim") else "linspace"
    steps = respacing.removeprefix("ddim") or str(SAMPLING_STEPS)
    if not steps.isdecimal():
        raise ConfigError(f"timestep_respacing is '{respacing}'; dsdiff spaces its steps evenly, such as '20'")
    if not respacing:
        keys.notes.append(f"timestep_respacing: the file gives none; sampling takes {SAMPLING_STEPS} steps")

    params: dict[str, Any] = {"steps": int(steps), "spacing": spacing}
    return {"target": sampler, "params": params | ({"eta": 0.0} if sampler == "ddim" else {})}


def _convert_training(keys: ConfigKeys) -> dict[str, Any]:
    """Convert the training. Without lr_anneal_steps, the learning rate stays constant."""
    learning_rate = keys.take_number("lr", 1e-4)
    training: dict[str, Any] = {"lr": learning_rate, "final_lr": learning_rate, "ema": _convert_ema(keys)}
    anneal_steps = keys.take_count("lr_anneal_steps", 0, minimum=0)
    loop_steps = [steps for key, steps in TRAINING_STEPS.items() if key in keys.remaining]
    if anneal_steps:
        training |= {"steps": anneal_steps, "final_lr": 0.0}
        keys.add_note("lr_anneal_steps", anneal_steps, "the learning rate falls as a cosine instead of a line")
    elif loop_steps:
        training["steps"] = loop_steps[0]
        keys.notes.append(f"training.steps: the file gives none; its code stops after {loop_steps[0]}")
    else:
        keys.notes.append("training.steps: the file gives none; set the number of your training")

    if "model_path" in keys.remaining:  # a file for sampling
        keys.note_present("batch_size", "of sampling; dsdiff synth chooses it by itself")
        return training
    batch_size = keys.take_count("batch_size", 1)
    microbatch = keys.take("microbatch", -1)
    part = microbatch if isinstance(microbatch, int) and 0 < microbatch < batch_size else batch_size
    training |= {"batch_size": part, "accumulate": -(-batch_size // part)}
    return training | {"weight_decay": keys.take_number("weight_decay", 0.0)}


def _convert_ema(keys: ConfigKeys) -> list[float] | float:
    decays = _split_numbers(keys, "ema_rate")
    return decays if len(decays) > 1 else (decays or [0.9999])[0]
