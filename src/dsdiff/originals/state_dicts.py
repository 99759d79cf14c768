"""Weights of the original networks under the names of ours, and back.

The UNet and the DiT have the names of guided-diffusion, latent-diffusion and DiT. `UNet_disc_Model`, the network of
DisC-Diff with two contrasts, and `DSUnetModel` have other names. Their structure needs the parameters in
`disc_unet.ORIGINAL_STRUCTURE` and `ds_unet.ORIGINAL_STRUCTURE`.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from dsdiff.backbones.disc_unet import DisentangledUNet
from dsdiff.backbones.dit import DiT
from dsdiff.backbones.ds_unet import DSUNet
from dsdiff.errors import ModelError

# Names of the encoders of the contrasts in `UNet_disc_Model` and in DisC-Diff, by the number of contrasts.
DISC_ENCODERS = {
    3: ("input_blocks_T1", "input_blocks_T2", "input_blocks_DWI"),
    2: ("input_blocks_lr", "input_blocks_other"),
}
# Names of the encoders of the contrasts in `DSUnetModel`: anatomy, anatomy and lesion, lesion.
DS_ENCODERS = ("input_blocks_a", "input_blocks_al", "input_blocks_l")
DS_EXCITATIONS = {
    "style": "style_proj",
    "content": "share_content_proj",
    "anatomy": "anatomy_proj",
    "lesion": "lesion_proj",
}
# A name that only this network of the reference implementations has -> the backbone. The first match counts.
CHARACTERISTIC_NAMES = {
    "all_proj.1.weight": "ds_unet",
    "dim_reduction_non_zeros.0.weight": "disc_unet",
    "x_embedder.proj.weight": "dit",
    "input_blocks.0.0.weight": "unet",
}
N_LISTED_NAMES = 3


def identify_backbone(names: Iterable[str]) -> str | None:
    """Find the backbone to which the weights of an original network belong.

    Args:
        names: Names of the weights, without the prefixes of a checkpoint.

    Returns:
        A registered name; None if no reference implementation has such names.
    """
    names = set(names)
    for characteristic_name, backbone in CHARACTERISTIC_NAMES.items():
        if characteristic_name in names:
            return backbone
    return None


def convert_state_dict(state: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Give the weights of an original network the names of ours.

    A DiT without `num_classes` does not use the label table of the reference. The table is left out.

    Args:
        state: Weights by their original names, without the prefixes of a checkpoint.
        backbone: The network to load them into.

    Returns:
        Weights for `backbone.load_state_dict`.

    Raises:
        ModelError: A weight is missing, unexpected, or of another shape.
    """
    prefixes = _original_prefixes(backbone)
    converted = {_replace_prefix(name, prefixes): tensor for name, tensor in state.items()}

    if isinstance(backbone, DiT) and backbone.params.num_classes is None:
        converted.pop("y_embedder.embedding_table.weight", None)
    expected = backbone.state_dict()
    _check_names(converted, expected, state)
    _check_shapes(converted, expected)

    if isinstance(backbone, DSUNet):
        converted["fuse.weight"] = _swap_style_and_content(converted["fuse.weight"], backbone)
    return converted


def restore_state_dict(state: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Give the weights of one of our networks the names of the original network.

    Args:
        state: `backbone.state_dict()`, or weights like it.
        backbone: The network that they belong to.

    Returns:
        Weights for `load_state_dict` of the original network.

    Raises:
        ModelError: A weight is missing, unexpected, or of another shape.
    """
    restored = dict(state)
    expected = backbone.state_dict()
    _check_names(restored, expected, state)
    _check_shapes(restored, expected)

    if isinstance(backbone, DSUNet):
        restored["fuse.weight"] = _swap_style_and_content(restored["fuse.weight"], backbone)
    prefixes = {prefix: original for original, prefix in _original_prefixes(backbone).items()}
    return {_replace_prefix(name, prefixes): tensor for name, tensor in restored.items()}


def _original_prefixes(backbone: nn.Module) -> dict[str, str]:
    """Prefix of a name in the original network -> prefix in ours, where they differ."""
    if isinstance(backbone, DisentangledUNet):
        return _disc_prefixes(len(backbone.streams.contrasts))
    if isinstance(backbone, DSUNet):
        return _ds_prefixes()
    return {}


def _disc_prefixes(n_contrasts: int) -> dict[str, str]:
    prefixes = {
        "input_blocks.": "streams.noisy.",
        "conv_common.0.": "common.",
        "conv_distinct.0.": "distinct.",
        "SE_Attention_com.se.": "weigh_common.fc.",
        "dim_reduction_non_zeros.": "fuse.",
    }
    for i, encoder in enumerate(DISC_ENCODERS.get(n_contrasts, ())):
        prefixes[f"{encoder}."] = f"streams.contrasts.{i}."
    for i in range(1 + n_contrasts):
        prefixes[f"SE_Attention_dist_{i + 1}.se."] = f"weigh_distinct.{i}.fc."
    return prefixes


def _ds_prefixes() -> dict[str, str]:
    prefixes = {"input_blocks.": "streams.noisy.", "all_proj.1.": "fuse."}
    for i, encoder in enumerate(DS_ENCODERS):
        prefixes[f"{encoder}."] = f"streams.contrasts.{i}."
    for head, excitation in DS_EXCITATIONS.items():
        prefixes[f"conv_{head}.conv_1."] = f"heads.{head}.residual."
        prefixes[f"conv_{head}.conv_2."] = f"heads.{head}.reduce."
        prefixes[f"{excitation}.0.se."] = f"weigh.{head}.0.fc."
        prefixes[f"{excitation}.1."] = f"weigh.{head}.1."
    return prefixes


def _replace_prefix(name: str, prefixes: Mapping[str, str]) -> str:
    for prefix, replacement in prefixes.items():
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name


def _swap_style_and_content(weight: Tensor, backbone: DSUNet) -> Tensor:
    """The original fuses the noisy stream, content, style, anatomy, lesion; ours has style before content."""
    width = weight.shape[0]
    head_width = (weight.shape[1] - width) // len(backbone.contrasts_of_head)
    columns = weight.split([width, head_width, head_width, 2 * head_width], 1)
    noisy, first_head, second_head, anatomy_and_lesion = columns
    return torch.cat([noisy, second_head, first_head, anatomy_and_lesion], 1)


def _check_names(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    if not missing and not unexpected:
        return

    original = identify_backbone(state)
    hint = f"; they look like the weights of backbone '{original}'" if original else ""
    raise ModelError(
        f"the weights do not fit the network: {_list_names('missing', missing)}, "
        f"{_list_names('unexpected', unexpected)}{hint}; use a config with the parameters of the original network"
    )


def _list_names(kind: str, names: list[str]) -> str:
    if not names:
        return f"0 {kind}"
    ellipsis = ", ..." if len(names) > N_LISTED_NAMES else ""
    return f"{len(names)} {kind} ({', '.join(names[:N_LISTED_NAMES])}{ellipsis})"


def _check_shapes(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise ModelError(
                f"the weights do not fit the network: {name} is {tuple(weights[name].shape)}, the network needs "
                f"{tuple(tensor.shape)}; use a config with the parameters of the original network"
            )
