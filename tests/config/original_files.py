"""The keys and values of the config files of the original system and of DisC-Diff, and how to write them to a folder.

Comments, the inner settings of autoencoders and paths are left out.
"""

from pathlib import Path
from typing import Any

import yaml

from tests.config.disc_diff_files import (
    CONTRAST_SYNTHESIS,
    DISC_SAMPLING,
    DISC_TRAINING,
    GUIDED_PARAMS,
    SUPER_RESOLUTION,
)
from tests.config.trainer_files import INFERENCE_CONFIG, TRAIN_CONFIG, TRAIN_CONFIG_BRATS

UNET_MODEL = "ldm.modules.diffusionmodules.openaimodel.UNetModel"
DISC_MODEL = "Disc_diff.guided_diffusion.unet.UNet_disc_Model"
DS_MODEL = "UNet_DS_Diff.model.DSUnetModel"
LATENT_DIFFUSION = "ldm.models.diffusion.ddpm.ImageEmbeddingConditionedLatentDiffusion"
AUTOENCODER = {"target": "ldm.models.autoencoder.AutoencoderKL", "params": {"embed_dim": 4}}

VOXEL_PARAMS = {
    "parameterization": "v",
    "beta_schedule": "linear",
    "linear_start": 0.0001,
    "linear_end": 0.02,
    "log_every_t": 200,
    "timesteps": 2000,
    "first_stage_key": "jpg",
    "image_size": 320,
    "channels": 1,
    "conditioning_key": "concat",
    "loss_type": "l2",
    "monitor": "val/loss_simple_ema",
    "use_ema": False,
}
UNCLIP_PARAMS = {
    "embedding_dropout": 0.25,
    "parameterization": "v",
    "linear_start": 0.00085,
    "linear_end": 0.012,
    "log_every_t": 200,
    "timesteps": 1000,
    "first_stage_key": "jpg",
    "cond_stage_key": "txt",
    "image_size": 40,
    "channels": 4,
    "cond_stage_trainable": False,
    "scale_factor": 0.18215,
    "monitor": "val/loss_simple_ema",
    "use_ema": False,
    "embedder_config": {"target": "ldm.modules.encoders.modules.FrozenOpenCLIPImageEmbedder"},
    "first_stage_config": AUTOENCODER,
    "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder"},
}
UNET_PARAMS = {
    "use_checkpoint": True,
    "image_size": 32,
    "in_channels": 1,
    "out_channels": 1,
    "num_res_blocks": 2,
    "use_new_attention_order": True,
}
DS_PARAMS = UNET_PARAMS | {
    "num_classes": None,
    "adm_in_channels": 2048,
    "use_spatial_transformer": False,
    "use_linear_in_transformer": True,
    "transformer_depth": 1,
    "context_dim": None,
    "legacy": False,
}
UNCLIP_UNET_PARAMS = {
    "num_classes": None,
    "adm_in_channels": 2048,
    "use_checkpoint": True,
    "image_size": 32,
    "in_channels": 16,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "num_head_channels": 64,
    "use_spatial_transformer": False,
    "use_linear_in_transformer": True,
    "transformer_depth": 1,
    "context_dim": None,
    "legacy": False,
}
WIDE = {
    "model_channels": 160,
    "attention_resolutions": [16],
    "channel_mult": [1, 2, 4, 4],
    "num_head_channels": 32,
}
DEEP = {
    "model_channels": 96,
    "attention_resolutions": [32, 16, 8],
    "channel_mult": [1, 1, 2, 2, 3, 3],
    "num_head_channels": 48,
}


def latent_diffusion(target: str, unet_params: dict[str, Any], loss: str = "l2", **model_params: Any) -> dict[str, Any]:
    """The nested form of latent diffusion, on voxels."""
    params = VOXEL_PARAMS | {"loss_type": loss} | model_params
    params = {key: value for key, value in params.items() if value != "absent"}
    params["unet_config"] = {"target": target, "params": unet_params}
    return {"model": {"base_learning_rate": 1e-4, "target": LATENT_DIFFUSION, "params": params}}


def unclip(unet_params: dict[str, Any], **model_params: Any) -> dict[str, Any]:
    params = UNCLIP_PARAMS | model_params | {"unet_config": {"target": UNET_MODEL, "params": unet_params}}
    return {"model": {"base_learning_rate": 1e-4, "target": LATENT_DIFFUSION, "params": params}}


TEXT_UNET_PARAMS = UNCLIP_UNET_PARAMS | {
    "in_channels": 4,
    "use_spatial_transformer": True,
    "context_dim": 768,
}
VQ_LATENTS = {  # of CompVis/latent-diffusion
    "linear_start": 0.0015,
    "linear_end": 0.0195,
    "timesteps": 1000,
    "first_stage_key": "image",
    "image_size": 64,
    "channels": 3,
    "first_stage_config": {"target": "ldm.models.autoencoder.VQModelInterface", "params": {"embed_dim": 3}},
}
VQ_UNET_PARAMS = {
    "image_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 224,
    "attention_resolutions": [8, 4, 2],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 3, 4],
    "num_head_channels": 32,
}


def vq_latent_diffusion(unet_params: dict[str, Any], **model_params: Any) -> dict[str, Any]:
    params = VQ_LATENTS | model_params | {"unet_config": {"target": UNET_MODEL, "params": VQ_UNET_PARAMS | unet_params}}
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}


ORIGINAL_FILES: dict[str, dict[str, Any]] = {
    "configs/disc-diff.yaml": latent_diffusion(DISC_MODEL, UNET_PARAMS | WIDE),
    "configs/disc-diff-origin.yaml": latent_diffusion(DISC_MODEL, UNET_PARAMS | DEEP),
    "configs/v2-1-cddpm.yaml": latent_diffusion(UNET_MODEL, DS_PARAMS | WIDE | {"in_channels": 16}, "charbonnie"),
    "configs/v2-1-cddpm-disc.yaml": latent_diffusion(UNET_MODEL, DS_PARAMS | DEEP | {"in_channels": 4}),
    "configs/v2-1-cddpm-ds-disc.yaml": latent_diffusion(
        DS_MODEL, DS_PARAMS | DEEP | {"model_channels": 320, "num_head_channels": 32}, "charbonnie"
    ),
    "configs/v2-1-cddpm-ds-disc-openai-diffusion.yaml": latent_diffusion(
        DS_MODEL,
        DS_PARAMS | DEEP | {"use_scale_shift_norm": True, "transformer_depth": 2, "use_edge": False},
        "charbonnie",
        timesteps="absent",
        image_size="absent",
        clip_denoised=True,
        ViT_config={
            "target": "UNet_DS_Diff.DiT_models.DiT_B_8",
            "params": {"num_classes": 1000, "input_size": 192, "in_channels": 4},
        },
        **GUIDED_PARAMS,
    ),
    "configs/v2-1-cddpm-ds-big.yaml": latent_diffusion(
        DS_MODEL,
        DS_PARAMS
        | WIDE
        | {"model_channels": 128, "attention_resolutions": [8, 16], "channel_mult": [1, 1, 2, 2, 4, 4]},
        "charbonnie",
        learn_logvar=True,
    ),
    "configs/v2-1-cddpm-ds-syndiff.yaml": latent_diffusion(
        DS_MODEL, DS_PARAMS | WIDE | {"model_channels": 64, "channel_mult": [1, 1, 2, 2, 4, 4]}, "charbonnie"
    ),
    "configs/v1-inference.yaml": unclip(
        {key: value for key, value in TEXT_UNET_PARAMS.items() if key not in ("num_head_channels", "adm_in_channels")}
        | {"num_heads": 8},
        parameterization=None,
        conditioning_key="crossattn",
        num_timesteps_cond=1,
        timesteps=2000,
        image_size=64,
        scheduler_config={"target": "ldm.lr_scheduler.LambdaLinearScheduler", "params": {"warm_up_steps": [10000]}},
        cond_stage_config={"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"},
    ),
    "configs/v2-1-stable-unclip-h-inference.yaml": unclip(
        UNCLIP_UNET_PARAMS, conditioning_key=None, force_null_conditioning=True
    ),
    "configs/v2-1-stable-unclip-h-inference-origin.yaml": unclip(
        TEXT_UNET_PARAMS | {"num_classes": "sequential", "context_dim": 1024},
        conditioning_key="crossattn-adm",
        force_null_conditioning=False,
    ),
    "configs/autoencoder_kl_sdv1.yaml": {
        "model": {
            "base_learning_rate": 4.5e-6,
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {"embed_dim": 4, "ddconfig": {"z_channels": 4, "in_channels": 1, "out_ch": 1}},
        }
    },
    "configs/train_config.yaml": TRAIN_CONFIG,
    "configs/train_config_BraTs.yaml": TRAIN_CONFIG_BRATS,
    "configs/inference_config.yaml": INFERENCE_CONFIG,
    "configs/inference_config_BraTs.yaml": INFERENCE_CONFIG
    | {"net_mode": "ds_diff", "Task_name": "BraTs_synthesis", "Task_id": 60, "test_batch_size": 64},
    "Disc_diff/config/config_train.yaml": DISC_TRAINING | SUPER_RESOLUTION | {"batch_size": 8},
    "Disc_diff/config/config_train_brats.yaml": DISC_TRAINING | CONTRAST_SYNTHESIS | {"batch_size": 6},
    "Disc_diff/config/config_train_prostate.yaml": DISC_TRAINING | CONTRAST_SYNTHESIS | {"batch_size": 6},
    "Disc_diff/config/config_test.yaml": DISC_SAMPLING | SUPER_RESOLUTION,
    "Disc_diff/config/config_test_brats.yaml": DISC_SAMPLING
    | CONTRAST_SYNTHESIS
    | {"batch_size": 1, "image_size": 192, "itk_save_dir": "out"},
    "Disc_diff/config/config_test_prostate.yaml": DISC_SAMPLING
    | CONTRAST_SYNTHESIS
    | {"batch_size": 1, "image_size": 320, "itk_save_dir": "out"},
    "DisC-Diff/config/config_train.yaml": DISC_TRAINING | SUPER_RESOLUTION | {"batch_size": 5},
    "DisC-Diff/config/config_test.yaml": DISC_SAMPLING | SUPER_RESOLUTION | {"sampling_method": "guided"},
    "latent-diffusion/configs/latent-diffusion/ffhq-ldm-vq-4.yaml": vq_latent_diffusion(
        {}, cond_stage_config="__is_unconditional__"
    ),
    "latent-diffusion/configs/latent-diffusion/cin-ldm-vq-f8.yaml": vq_latent_diffusion(
        {"in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "context_dim": 512},
        channels=4,
        conditioning_key="crossattn",
        cond_stage_config={"target": "ldm.modules.encoders.modules.ClassEmbedder"},
    ),
    "latent-diffusion/models/ldm/bsr_sr/config.yaml": vq_latent_diffusion(
        {"in_channels": 6, "model_channels": 160}, cond_stage_key="LR_image", loss_type="l2"
    ),
    "latent-diffusion/configs/autoencoder/autoencoder_kl_64x64x3.yaml": {
        "model": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {"embed_dim": 3, "ddconfig": {"z_channels": 3, "in_channels": 3, "out_ch": 3}},
        }
    },
}
IMPORTED_FILES = [
    name
    for name in ORIGINAL_FILES
    if not any(part in name for part in ("v1-inference", "unclip", "autoencoder", "latent-diffusion/"))
]


def write_original_files(folder: Path) -> None:
    """Write every file."""
    for name, values in ORIGINAL_FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(values, sort_keys=False))
