"""Networks of other programs by their weights: which backbone they are, its parameters, and their learned variance.

Shapes tell the sizes, but not how channels are divided into attention heads. For the widths of the published DiTs the
number of heads is known; for a UNet it must be given.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dsdiff.backbones import disc_unet, ds_unet
from dsdiff.errors import ModelError
from dsdiff.originals.state_dicts import identify_backbone

STREAM_STRUCTURES: dict[str, dict[str, Any]] = {
    "disc_unet": disc_unet.ORIGINAL_STRUCTURE,
    "ds_unet": ds_unet.ORIGINAL_STRUCTURE,
}
# Heads of the DiTs of a width. Source: Peebles and Xie 2023 (arXiv:2212.09748, table 1).
DIT_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
PATCH_LAYERS = ("final_layer.linear",)  # last layers whose rows are the pixels of a patch
OUTPUT_LAYERS = ("out.2", *PATCH_LAYERS)
BIAS_NAME = re.compile(r"(SE_Attention_com|style_proj\.0)\.se\.\d+\.bias")  # of a squeeze-excitation
STREAM_NAME = re.compile(r"input_blocks_\w+\.0\.0\.weight")  # of the encoder of a contrast
# Names of networks that dsdiff does not have, by a pattern that only they match.
OTHER_NETWORKS = {
    r"(first_stage_model|encoder\.down\.\d+\.block|quant_conv)\.": "an autoencoder of latent diffusion",
    r"down_blocks\.\d+\.resnets\.": "a UNet of diffusers",
    r"(cls_token|patch_embed\.proj\.)": "a vision transformer of timm",
    r"segmentation_head\.": "a network of segmentation_models_pytorch",
    r"downs\.\d+\.\d+\.": "the UNet of denoising-diffusion-pytorch",
    r"(layer1\.0\.conv1|conv1)\.weight$": "a ResNet",
    r"down_\w*blocks?\.|mid_block|middle_block\.": "a UNet of another program",
}

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class InferredBackbone:
    """A backbone that fits some weights.

    Attributes:
        target: Registered name.
        params: Its parameters, as far as the weights tell.
        n_contrasts: Number of contrasts, one channel each.
        multiple: Multiple that both sides of a slice must be.
        assumptions: What the weights do not tell, one line each.
        head_params: Parameters of which one must be given, since the weights do not tell the number of attention heads.
    """

    target: str
    params: dict[str, Any]
    n_contrasts: int
    multiple: int
    assumptions: tuple[str, ...]
    head_params: tuple[str, ...]


def describe_network(names: list[str]) -> str:
    """Describe the network that some weights belong to.

    Args:
        names: Names of the weights, without the prefixes of a checkpoint.

    Returns:
        A backbone of dsdiff, a known network of another program, or the first names.
    """
    target = identify_backbone(names)
    if target is not None:
        return f"backbone '{target}'"
    for pattern, network in OTHER_NETWORKS.items():
        if any(re.match(pattern, name) for name in names):
            return f"{network}, which dsdiff does not have"
    return f"an unknown network whose weights begin with {', '.join(names[:3])}"


def infer_backbone(shapes: Shapes) -> InferredBackbone:
    """Find the backbone and its parameters.

    Args:
        shapes: Shapes of the weights of an original network, by name, without the prefixes of a checkpoint.

    Returns:
        The backbone.

    Raises:
        ModelError: The weights belong to no backbone of dsdiff, or to an option that it does not have.
    """
    target = identify_backbone(shapes)
    if target is None:
        raise ModelError(f"the weights look like {describe_network(list(shapes))}")
    try:
        return _infer_dit(shapes) if target == "dit" else _infer_unet(target, shapes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise ModelError(
            f"the weights look like backbone '{target}', but not all of its parameters can be found ({error}); give "
            "the config of their training with --config"
        ) from error


def infer_structure(target: str, shapes: Shapes) -> dict[str, Any]:
    """Find parameters that a config of the training may not give, but its weights tell.

    Args:
        target: Registered name of the backbone.
        shapes: Shapes of the weights of its original network.

    Returns:
        For networks with a stream per image, whether squeeze-excitations have a bias; for a DiT, its label table.
    """
    if target in STREAM_STRUCTURES:
        return {"excitation_bias": any(BIAS_NAME.match(name) for name in shapes)}
    return _infer_labels(shapes) if target == "dit" else {}


def drop_variance(weights: Mapping[str, Tensor], n_outputs: int) -> tuple[dict[str, Tensor], bool]:
    """Remove the channels of a learned variance, which the samplers of dsdiff do not use.

    Args:
        weights: Weights of an original network, by name.
        n_outputs: Channels that are needed. A network with twice as many has learned the variance: the reference
            implementations return it after the prediction.

    Returns:
        The weights, and whether channels were removed.
    """
    reduced, is_changed = dict(weights), False
    for layer in OUTPUT_LAYERS:
        for name in (f"{layer}.weight", f"{layer}.bias"):
            n_rows = n_outputs * _count_patch_pixels(weights) if layer in PATCH_LAYERS else n_outputs
            if name in weights and len(weights[name]) == 2 * n_rows:
                channels = weights[name].unflatten(0, (-1, 2 * n_outputs))  # pixels before channels
                reduced[name] = channels[:, :n_outputs].flatten(0, 1)
                is_changed = True
    return reduced, is_changed


def _count_patch_pixels(weights: Mapping[str, Tensor]) -> int:
    return weights["x_embedder.proj.weight"].shape[-2:].numel() if "x_embedder.proj.weight" in weights else 0


def _infer_dit(shapes: Shapes) -> InferredBackbone:
    hidden_size, in_channels, patch_size, _ = shapes["x_embedder.proj.weight"]
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    n_positions = shapes["pos_embed"][1]
    rows = math.isqrt(n_positions)
    if rows**2 != n_positions:
        raise ValueError(f"{n_positions} positions are not those of a square image")

    params: dict[str, Any] = {
        "image_size": rows * patch_size,
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "depth": depth,
        "mlp_ratio": shapes["blocks.0.mlp.fc1.weight"][0] / hidden_size,
    }
    assumptions = []
    if hidden_size in DIT_HEADS:
        params["num_heads"] = DIT_HEADS[hidden_size]
        assumptions.append(f"num_heads {params['num_heads']}, as in the published DiT of width {hidden_size}")
    params |= _infer_labels(shapes)
    if "num_classes" in params:
        assumptions.append("the last row of the label table stands for 'no label'; every slice has that label")

    return InferredBackbone(
        "dit",
        params,
        n_contrasts=in_channels - 1,
        multiple=patch_size,
        assumptions=tuple(assumptions),
        head_params=() if hidden_size in DIT_HEADS else ("num_heads",),
    )


def _infer_labels(shapes: Shapes) -> dict[str, Any]:
    if "y_embedder.embedding_table.weight" not in shapes:
        return {}
    n_rows = shapes["y_embedder.embedding_table.weight"][0]
    if n_rows == 1:
        return {"num_classes": 1, "class_dropout_prob": 0, "class_label": 0}
    return {"num_classes": n_rows - 1}


def _infer_unet(target: str, shapes: Shapes) -> InferredBackbone:
    """Infer the parameters of a UNet, or of a network whose streams are encoders of a UNet."""
    _check_options(shapes)
    model_channels = shapes["time_embed.0.weight"][1]
    resblock_updown = any(re.match(r"output_blocks\.\d+\.[12]\.in_layers\.", name) for name in shapes)
    levels = _levels_of_decoder(shapes) if resblock_updown else _levels_of_encoder(shapes)

    channel_mult, attention_resolutions = [], []
    for level, blocks in enumerate(levels):
        width = shapes[f"input_blocks.{blocks[0]}.0.out_layers.3.weight"][0]
        channel_mult.append(width // model_channels if width % model_channels == 0 else width / model_channels)
        if f"input_blocks.{blocks[0]}.1.qkv.weight" in shapes:
            attention_resolutions.append(2**level)
    n_blocks = [len(blocks) for blocks in levels]
    first_width = shapes["input_blocks.1.0.out_layers.3.weight"][0]

    params: dict[str, Any] = {
        "model_channels": model_channels,
        "channel_mult": channel_mult,
        "num_res_blocks": n_blocks[0] if len(set(n_blocks)) == 1 else n_blocks,
        "attention_resolutions": attention_resolutions,
        "use_scale_shift_norm": shapes["input_blocks.1.0.emb_layers.1.weight"][0] == 2 * first_width,
        "resblock_updown": resblock_updown,
        "conv_resample": resblock_updown or any(re.match(r"input_blocks\.\d+\.0\.op\.", name) for name in shapes),
    }
    if target in STREAM_STRUCTURES:
        params |= STREAM_STRUCTURES[target] | infer_structure(target, shapes)

    return InferredBackbone(
        target,
        params,
        n_contrasts=_count_contrasts(target, shapes),
        multiple=2 ** (len(levels) - 1),
        assumptions=("use_new_attention_order false unless it is given: the weights do not tell",),
        head_params=("num_head_channels", "num_heads"),
    )


def _count_contrasts(target: str, shapes: Shapes) -> int:
    if target in STREAM_STRUCTURES:
        return sum(bool(STREAM_NAME.match(name)) for name in shapes)
    return shapes["input_blocks.0.0.weight"][1] - 1


def _check_options(shapes: Shapes) -> None:
    """Raise `ModelError` for parts that the UNet of dsdiff does not have."""
    if any(".transformer_blocks." in name for name in shapes):
        raise ModelError("the UNet attends to a text (spatial transformer), which the backbones of dsdiff do not do")
    if any(name.startswith("label_emb.") for name in shapes):
        raise ModelError("the UNet takes class labels, which the backbones of dsdiff do not do")
    if len(shapes["input_blocks.0.0.weight"]) != 4:
        raise ModelError("the convolutions of the UNet are not 2-D; dsdiff synthesizes 2-D slices")


def _levels_of_encoder(shapes: Shapes) -> list[list[int]]:
    """List the residual blocks of each level. Between two levels is a block that halves the size."""
    indices = {int(match[1]) for name in shapes if (match := re.match(r"input_blocks\.(\d+)\.", name))}
    levels: list[list[int]] = [[]]
    for i in range(1, max(indices) + 1):
        if f"input_blocks.{i}.0.in_layers.0.weight" in shapes:
            levels[-1].append(i)
        else:  # a strided convolution, or an average without weights
            levels.append([])
    return levels


def _levels_of_decoder(shapes: Shapes) -> list[list[int]]:
    """List the residual blocks of each level of the encoder if residual blocks also halve and double the size.

    In the encoder they look like the others. In the decoder they follow the last block of a level.
    """
    indices = {int(match[1]) for name in shapes if (match := re.match(r"output_blocks\.(\d+)\.", name))}
    sizes = [0]
    for i in range(max(indices) + 1):
        sizes[-1] += 1
        if any(f"output_blocks.{i}.{part}.in_layers.0.weight" in shapes for part in (1, 2)):
            sizes.append(0)

    levels, first = [], 1
    for size in reversed(sizes):  # a level of the decoder has one block more
        levels.append(list(range(first, first + size - 1)))
        first += size
    return levels
