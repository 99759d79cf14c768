"""Convert train_config.yaml and inference_config.yaml of the original system.

A train_config names the file of its network (config_opt). An inference_config names none, since the original reads the
network from the checkpoint.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsdiff.backbones import registry
from dsdiff.config.imported import ConfigKeys
from dsdiff.config.latent_diffusion import convert_latent_diffusion
from dsdiff.config.original_network import CONTRASTS
from dsdiff.config.original_training import DS_DIFF_TERMS, STEPS_PER_EPOCH, augmentation, convert_epochs
from dsdiff.config.overrides import read_config
from dsdiff.config.run import load_config
from dsdiff.data.settings import TARGET
from dsdiff.errors import ConfigError

NESTED_BLOCKS = ("sampler_setting",)
# File of a network in the original -> the recipe of dsdiff that equals its import.
RECIPES = {
    "disc-diff.yaml": "disc-diff",
    "disc-diff-origin.yaml": "disc-diff-origin",
    "v2-1-cddpm.yaml": "v2-1-cddpm",
    "v2-1-cddpm-disc.yaml": "v2-1-cddpm-disc",
    "v2-1-cddpm-ds-disc.yaml": "ds-diff",
    "v2-1-cddpm-ds-disc-openai-diffusion.yaml": "ds-diff-96",
    "v2-1-cddpm-ds-big.yaml": "ds-diff-big",
    "v2-1-cddpm-ds-syndiff.yaml": "ds-diff-syndiff",
}
RECIPE_OF_MODE = {"ds_diff": "ds-diff", "ds_diff_gaussian": "ds-diff-96", "ddpm": "v2-1-cddpm"}
SAMPLERS = {"ddim": "ddim", "ddpm": "ancestral", "dpm": "dpmpp_2m", "dpm++": "dpmpp_2m"}
EDGES = ("sobel", "canny", "laplacian")
REASONS = {
    "net_mode": "backbone.target says which network it is",
    "Task_name": "dsdiff train --out names the run",
    "Task_id": "dsdiff train --out names the run",
    "mode": "the command says it: dsdiff train or dsdiff synth",
    "cuda_idx": "CUDA_VISIBLE_DEVICES chooses the GPU",
    "fold_K": "dsdiff split makes the folds, data.split and data.fold name the held-out patients",
    "fold_idx": "dsdiff split makes the folds, data.split and data.fold name the held-out patients",
    "vae_local_pretrained": "dsdiff has no autoencoder; diffusion works on voxels",
    "use_prostate_mask": "dsdiff evaluates in the brain and in the tumour",
    "ckpt_name": "dsdiff synth --model names a model folder; dsdiff import-weights makes one from a checkpoint",
    "test_num": "dsdiff synth takes every patient of a folder",
    "test_batch_size": "dsdiff synth chooses it by itself",
    "val_batch_size": "training.validate_volumes counts the patients of a validation",
    "num_workers": "dsdiff train --workers sets it",
    "checkpoint_epoch": "training.save_every counts steps",
    "val_step": "training.validate_every counts steps",
    "dataset_type": "dsdiff prepare makes a store, from which training reads",
    "dir_prefix": "data.root names the folder of patients",
    "result_path": "dsdiff train --out names the folder of a run",
    "filepath_img": "data.root names the folder of patients",
    "h5_2d_img_dir": "data.root names the folder of patients, or a store of dsdiff prepare",
    "image_size": "no effect there; data.crop is the training size",
    "data_name": "data.root names the patients, data.contrasts the contrasts",
    "include_test": "held-out patients are never trained on",
    "lr_cos_epoch": "the cosine ends with the training",
    "output_ch": "the network returns one image",
    "beta1": "AdamW has the momenta 0.9 and 0.999",
    "beta2": "AdamW has the momenta 0.9 and 0.999",
}
IMPLIED_VALUES = {"output_ch": 1, "beta1": 0.9, "beta2": 0.999, "mode": "train", "include_test": False}


def convert_train_config(values: Mapping[Any, Any], path: Path) -> tuple[dict[str, Any], ConfigKeys]:
    """Convert a train_config.yaml together with the file of its network.

    Args:
        values: The file, as YAML holds it.
        path: The file. That of the network is searched beside it.

    Returns:
        Plain values of a config, and the keys of the file with notes, and with reasons if it cannot be imported.

    Raises:
        ConfigError: The file of the network is not there, or a value is invalid.
    """
    keys = ConfigKeys(values, NESTED_BLOCKS)
    model_type = keys.take("model_type", registry.DEFAULT.target)
    if model_type != registry.DEFAULT.target:
        keys.add_refusal(
            "model_type", model_type, "import the file of the network with unet_config instead of ViT_config"
        )
    config = _read_network(keys, str(keys.take("config_opt")), path.parent)

    _convert_inputs(keys, config)
    _convert_disentangling(keys, config)
    _convert_schedule(keys, config["training"])
    _convert_sampler(keys, config)
    probability = keys.take_number("augmentation_prob", 0.4)
    config["data"]["augment"] = augmentation(probability)
    keys.add_note("augmentation_prob", probability, "rotations of 30 degrees and left-right flips; it flips both axes")
    config["seed"] = keys.take_count("seed", 2024, minimum=0)

    return config, keys


def convert_inference_config(values: Mapping[Any, Any]) -> tuple[dict[str, Any], ConfigKeys]:
    """Convert an inference_config.yaml: the sampler and the seed, with the recipe that its net_mode stands for.

    Args:
        values: The file, as YAML holds it.

    Returns:
        Plain values of a config, and the keys of the file with notes.

    Raises:
        ConfigError: No recipe has this net_mode, or a value is invalid.
    """
    keys = ConfigKeys(values, NESTED_BLOCKS)
    mode = str(keys.take("net_mode"))
    if mode not in RECIPE_OF_MODE:
        raise ConfigError(f"net_mode is '{mode}'; dsdiff has the networks of {', '.join(RECIPE_OF_MODE)}")
    recipe = RECIPE_OF_MODE[mode]
    keys.add_note(
        "net_mode",
        mode,
        f"the original reads the network from the checkpoint; this is recipe {recipe}, so import the file with which "
        "the checkpoint was trained if it is another",
    )

    config = _read_recipe(recipe)
    _convert_sampler(keys, config)
    config["seed"] = keys.take_count("seed", 2024, minimum=0)
    return config, keys


def _read_network(keys: ConfigKeys, config_opt: str, folder: Path) -> dict[str, Any]:
    """Convert the file of the network, or take the recipe that equals its import."""
    name = config_opt.replace("\\", "/").rsplit("/", 1)[-1]
    file = folder / name
    if not file.is_file():
        if name not in RECIPES:
            raise ConfigError(f"config_opt names the file of the network, {name}; it is not in {folder}")
        keys.add_note("config_opt", name, f"it is not in {folder}; recipe {RECIPES[name]} equals its import")
        return _read_recipe(RECIPES[name])

    config, network_keys = convert_latent_diffusion(read_config(file, resolve=False))
    network_keys.check_refusals(str(file))
    keys.add_note("config_opt", name, "the network; dsdiff import-config lists what became of its keys")
    return config


def _read_recipe(name: str) -> dict[str, Any]:
    """Return a recipe of dsdiff as plain values, which hold every key."""
    return load_config(name).model_dump(mode="json")


def _convert_inputs(keys: ConfigKeys, config: dict[str, Any]) -> None:
    names = keys.take("train_keys", list(CONTRASTS))
    contrasts = [str(name).lower() for name in names] if isinstance(names, list) else []
    contrasts = [contrast for contrast in contrasts if contrast != TARGET]
    if contrasts and set(contrasts) <= set(CONTRASTS):
        config["data"]["contrasts"] = contrasts
        config["data"]["source_contrast"] = "t1" if "t1" in contrasts else contrasts[0]
    else:
        keys.add_note(
            "train_keys", names, f"dsdiff reads {', '.join(CONTRASTS)}; put yours in data.contrasts, in their order"
        )

    edges = keys.take("use_edge", False)
    if edges and str(edges) not in EDGES:
        keys.add_refusal("use_edge", edges, f"dsdiff knows {', '.join(EDGES)}")
    elif edges:
        config["conditioning"]["edges"] = edges
        keys.add_note(
            "use_edge",
            edges,
            "one map for each contrast, in its stream; weights of the original, which gives the map to the noisy image "
            "or to nothing, need conditioning.edges none",
        )


def _convert_disentangling(keys: ConfigKeys, config: dict[str, Any]) -> None:
    weight = keys.take_number("contrast_lambda", 0.5)
    distance = keys.remaining.pop("disentangle_distance", "eu")
    if distance not in ("eu", None, "null"):
        keys.add_refusal(
            "disentangle_distance", distance, "dsdiff has no contrastive loss; it has eu, the distance ratio"
        )

    terms = config["conditioning"]["disentangle"]
    is_ds_diff = bool(terms) and terms[0]["target"] in DS_DIFF_TERMS
    if is_ds_diff and (weight == 0 or distance != "eu"):
        config["conditioning"]["disentangle"] = []
    elif is_ds_diff:
        config["conditioning"]["disentangle"] = [term | {"weight": weight} for term in terms]
    elif terms:
        keys.add_note("contrast_lambda", weight, "no effect there, since the loss of DisC-Diff has weight 1")
    else:
        keys.add_note("contrast_lambda", weight, "no effect there, since the network has no such features")


def _convert_schedule(keys: ConfigKeys, training: dict[str, Any]) -> None:
    training["batch_size"] = keys.take_count("train_batch_size", training["batch_size"])
    training["lr"] = keys.take_number("lr", training["lr"])
    training["final_lr"] = keys.take_number("lr_low", training["final_lr"])
    training["warmup"] = STEPS_PER_EPOCH * keys.take_count("lr_warm_epoch", 0, minimum=0)
    epochs = keys.take("num_epochs")
    if epochs is not None:
        training["steps"] = convert_epochs(keys, "num_epochs", epochs)


def _convert_sampler(keys: ConfigKeys, config: dict[str, Any]) -> None:
    sampler = keys.translate("sampler_setting.sampler", SAMPLERS, "ddim")
    steps = keys.take_count("sampler_setting.sample_steps", 20)
    if keys.take("sampler_setting.ddim_use_original_steps", False):
        steps = config["process"]["params"]["timesteps"]
        keys.add_note("sampler_setting.ddim_use_original_steps", True, f"all {steps} timesteps")

    params = {"steps": steps, "spacing": config["sampler"]["params"].get("spacing", "leading")}
    eta = keys.take_number("sampler_setting.ddim_eta", 0.0)
    config["sampler"] = {"target": sampler, "params": params | ({"eta": eta} if sampler == "ddim" else {})}
