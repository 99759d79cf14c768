"""Our networks with the constructors and the call of the field: `UNetModel(model_channels=160, ...)(x_noisy, t, c)`.

The classes have the names and the parameters of guided-diffusion, latent-diffusion, DiT, DisC-Diff and DS-Diff. They
are the networks of this package: they have the same weights, compute the same, and a state dict of one loads into the
other. The condition is plain channels instead of a `Condition`, and the output is an image instead of a `Prediction`.
"""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dsdiff.backbones import disc_unet, dit, ds_unet, registry, unet
from dsdiff.errors import ConfigError, InputError
from dsdiff.layers.unet_params import INERT_PARAMS
from dsdiff.types import Condition, ConditionLayout, FeaturePair, Prediction

CONTRASTS = ("t1", "t2", "flair")  # the condition channels in order, unless there are others
HALF_PRECISION_PARAMS = ("use_fp16", "use_bf16")
HALF_PRECISION = "no effect; compute in half precision by torch.autocast"


class FieldNetwork(nn.Module):
    """A network that is built by the field's parameters and called as `network(x, t, c)`.

    Args:
        **params: Parameters of the backbone, by the names of the field. `in_channels` counts x and the condition, by
            default 4. Of a network with a stream for each image it may also be 1, the channels of one stream.

    Attributes:
        backbone_name: Name in the registry.
        default_params: Defaults that differ from those of the registry.
        in_channels: Channels of x and the condition together.

    Raises:
        ConfigError: A parameter is unknown or invalid, or needs a part that the network does not have.
    """

    backbone_name: ClassVar[str]
    default_params: ClassVar[dict[str, Any]] = {}
    multiple: int

    def __init__(self, **params: Any) -> None:
        known_params = self.default_params | _drop_inert_params(self.backbone_name, params)
        in_channels = known_params.pop("in_channels", None) or 1 + len(CONTRASTS)
        if in_channels == 1 and issubclass(type(self), StreamNetwork):
            in_channels = 1 + len(CONTRASTS)

        target = registry.BackboneTarget(target=self.backbone_name, params=known_params)
        for warning in registry.params_warnings(target):
            warnings.warn(f"{type(self).__name__}: {warning}", stacklevel=2)
        super().__init__(registry.parse(target), _channel_layout(in_channels - 1))
        self.in_channels = in_channels

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        timesteps: Shaped[Tensor, " b"],
        c_concat: Float[Tensor, "b c2 h w"] | Sequence[Tensor] | None = None,
    ) -> Float[Tensor, "b c3 h w"]:
        """Predict from noisy images.

        Args:
            x: Noisy images, one channel. Without `c_concat`: followed by the condition channels.
            timesteps: Integer timesteps.
            c_concat: Condition channels, or a list of images to concatenate.

        Returns:
            The prediction in float32, (b, out_channels, h, w).

        Raises:
            InputError: The number of channels is not `in_channels`.
            GeometryError: A side of the images is not a multiple of `multiple`.
        """
        return self.predict(x, timesteps, c_concat).value

    def predict(
        self,
        x: Float[Tensor, "b c h w"],
        timesteps: Shaped[Tensor, " b"],
        c_concat: Float[Tensor, "b c2 h w"] | Sequence[Tensor] | None = None,
    ) -> Prediction:
        """Predict from noisy images, with the features of a disentangled network.

        Args:
            x: See `forward`.
            timesteps: See `forward`.
            c_concat: See `forward`.

        Returns:
            The prediction in `value`; shared and specific features of every contrast in `features`.

        Raises:
            InputError: The number of channels is not `in_channels`.
            GeometryError: A side of the images is not a multiple of `multiple`.
        """
        images = [c_concat] if isinstance(c_concat, Tensor) else list(c_concat or ())
        joined = torch.cat([x, *images], 1)  # b (1 + s) h w
        if joined.shape[1] != self.in_channels:
            raise InputError(
                f"x and the condition have {joined.shape[1]} channels; {type(self).__name__} has in_channels "
                f"{self.in_channels}: 1 of x and {self.in_channels - 1} of the condition"
            )
        registry.check_slice_size(joined, self.multiple)

        sources = joined[:, 1:, None]  # b s 1 h w
        present = torch.ones(sources.shape[:2], dtype=torch.bool, device=x.device)
        return super().forward(joined[:, :1], timesteps.float(), Condition(sources, present))


class StreamNetwork(FieldNetwork):
    """A network with one stream for each image. It computes shared and specific features of the contrasts."""


class UNetModel(FieldNetwork, unet.UNetModel):  # type: ignore[misc]
    """The UNet of guided-diffusion and latent-diffusion; parameters: `layers.unet_params.UNetParams`."""

    backbone_name = "unet"


class DiT(FieldNetwork, dit.DiT):  # type: ignore[misc]
    """The diffusion transformer, by default DiT-XL/2 without class labels; parameters: `dit.DiTParams`."""

    backbone_name = "dit"
    default_params = dit.REFERENCE_DEFAULTS


class UNet_disc_Model(StreamNetwork, disc_unet.DisentangledUNet):  # type: ignore[misc]
    """The UNet of DisC-Diff in its original structure; parameters: `disc_unet.DisentangledParams`."""

    backbone_name = "disc_unet"
    default_params = disc_unet.ORIGINAL_STRUCTURE


class DSUnetModel(StreamNetwork, ds_unet.DSUNet):  # type: ignore[misc]
    """The UNet of DS-Diff in its original structure; parameters: `ds_unet.DSParams`."""

    backbone_name = "ds_unet"
    default_params = ds_unet.ORIGINAL_STRUCTURE


def disentangle_features(
    images: Float[Tensor, "b s h w"], network: nn.Module, timesteps: Shaped[Tensor, " b"] | None = None
) -> FeaturePair:
    """Compute shared and specific features of contrasts by a disentangled network.

    A training step that also predicts gets the features from `FieldNetwork.predict`, in one forward pass.

    Args:
        images: The contrasts, in the order of the network.
        network: A `UNet_disc_Model` or a `DSUnetModel`.
        timesteps: Timesteps, since the encoders of the contrasts depend on them. None: 0, an image without noise.

    Returns:
        The features of every contrast at the bottleneck, (b, s, c, h, w).

    Raises:
        ConfigError: The network has no such features.
        InputError: The number of contrasts is not that of the network.
    """
    if not isinstance(network, StreamNetwork):
        raise ConfigError(
            f"{type(network).__name__} has no shared and specific features; take UNet_disc_Model or DSUnetModel"
        )
    if timesteps is None:
        timesteps = torch.zeros(len(images), device=images.device)

    pair = network.predict(torch.zeros_like(images[:, :1]), timesteps, images).features[0]
    first = pair.shared.shape[1] - images.shape[1]  # 1 if the stream of the noisy image has features, too
    return FeaturePair(
        shared=pair.shared[:, first:],
        specific=pair.specific[:, first:],
        present=pair.present[:, first:],
        anatomy=pair.anatomy,
        lesion=pair.lesion,
    )


def _channel_layout(n_channels: int) -> ConditionLayout:
    names = [f"channel_{i + 1}" for i in range(n_channels)]
    if n_channels <= len(CONTRASTS):
        names = list(CONTRASTS[:n_channels])
    return ConditionLayout(tuple(names))


def _drop_inert_params(backbone_name: str, params: dict[str, Any]) -> dict[str, Any]:
    """Remove parameters without a value, and those that change nothing. A warning says which."""
    inert_params = dict.fromkeys(HALF_PRECISION_PARAMS, HALF_PRECISION)
    if backbone_name != "dit":
        inert_params |= INERT_PARAMS

    known_params = {}
    for name, value in params.items():
        if name in inert_params:
            if value:
                warnings.warn(f"{name} ({value}): {inert_params[name]}", stacklevel=3)
        elif value is not None:
            known_params[name] = value
    return known_params
