"""`segmentation_models_pytorch.Unet` as a denoiser: its encoder and decoder, with time by FiLM on every skip.

It needs the extra smp: pip install 'dsdiff-mri[smp]', which installs torchvision too. Weights are never downloaded.
Source: Perez et al. 2018 (FiLM, arXiv:1709.07871, eq. 2).
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from dsdiff.errors import ConfigError
from dsdiff.layers.fusion import SpadeFusion
from dsdiff.layers.params import BackboneParams
from dsdiff.layers.primitives import embed_timestep, maybe_checkpoint, zero_module
from dsdiff.types import Condition, ConditionLayout, Prediction


class SmpParams(BackboneParams):
    """The parameters of the library.

    Attributes:
        encoder_name: See the library.
        encoder_depth: Always 5: shallower encoders would keep their deep stages without using them.
        encoder_weights: Always None: a model that is built downloads nothing.
        decoder_channels: Channels of each level of the decoder.
        decoder_attention_type: See the library.
        time_channels: Features of the time embedding.
    """

    encoder_name: str = "resnet34"
    encoder_depth: Literal[5] = 5
    encoder_weights: None = None
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    decoder_attention_type: str | None = None
    time_channels: int = Field(128, ge=8)

    @model_validator(mode="after")
    def _check_decoder(self) -> "SmpParams":
        if len(self.decoder_channels) != self.encoder_depth:
            raise ValueError(f"decoder_channels {self.decoder_channels} must have {self.encoder_depth} levels")
        if self.dropout:
            raise ValueError("this backbone does not support dropout")
        return self


class SmpUNet(nn.Module):
    """The UNet of segmentation_models_pytorch. Its output starts at zero.

    Args:
        params: Size of the network.
        layout: The channels of the condition.

    Raises:
        ConfigError: The library is not installed, or does not accept the parameters.
    """

    Params = SmpParams

    def __init__(self, params: SmpParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params = params
        self.multiple = 2**params.encoder_depth
        self.unet = _build_unet(params, 1 + len(layout.map_channels))
        zero_module(self.unet.segmentation_head)

        features = params.time_channels
        self.time_embed = nn.Sequential(
            nn.Linear(features, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU()
        )
        skip_channels = self.unet.encoder.out_channels[1:]
        self.film = nn.ModuleList(zero_module(nn.Linear(features, 2 * channels)) for channels in skip_channels)
        self.fusion = SpadeFusion(dict(enumerate(skip_channels)), layout)
        _replace_batch_norms(self.unet)

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """Predict from noisy slices; see `network_protocols.Backbone`.

        Args:
            x_t: The noisy slices.
            t: Timesteps.
            cond: The condition.

        Returns:
            The prediction.
        """
        use_checkpoint = self.params.use_checkpoint
        emb = embed_timestep(self.time_embed, t, self.params.time_channels)

        x = torch.cat([x_t, cond.maps()], 1)
        image, *features = maybe_checkpoint(self.unet.encoder, x, use_checkpoint=use_checkpoint)
        skips = [image]
        for i, (film, feature) in enumerate(zip(self.film, features, strict=True)):
            scale, shift = film(emb)[:, :, None, None].chunk(2, 1)  # b c 1 1
            skips.append(self.fusion(cond, i, feature * (1 + scale) + shift))
        h = maybe_checkpoint(self.unet.decoder, skips, use_checkpoint=use_checkpoint)

        return Prediction(self.unet.segmentation_head(h).float())


def _build_unet(params: SmpParams, in_channels: int) -> Any:  # the library has no types
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise ConfigError("backbone 'smp_unet' needs pip install 'dsdiff-mri[smp]'") from error

    try:
        return smp.Unet(
            encoder_name=params.encoder_name,
            encoder_depth=params.encoder_depth,
            encoder_weights=None,
            decoder_channels=params.decoder_channels,
            decoder_attention_type=params.decoder_attention_type,
            in_channels=in_channels,
            classes=params.out_channels,
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(f"backbone.params of 'smp_unet': {error}") from error


def _replace_batch_norms(network: nn.Module) -> None:
    """Replace batch norms by group norms: the slices of a batch must not mix, and a batch may be one slice.

    Raises `ConfigError` for subclasses of batch norm, which some encoders of timm have.
    """
    for name, child in network.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            _replace_batch_norms(child)
            continue
        if type(child) is not nn.BatchNorm2d:
            raise ConfigError(
                f"this encoder has {type(child).__name__}, which mixes the slices of a batch; "
                "choose an encoder of torchvision"
            )
        groups = next(groups for groups in (32, 16, 8, 4, 2, 1) if child.num_features % groups == 0)
        setattr(network, name, nn.GroupNorm(groups, child.num_features))
