"""`segmentation_models_pytorch.Unet` as a denoiser: its encoder and decoder, with time by FiLM on every skip.

Needs the extra: pip install 'dsdiff-mri[smp]' (which brings torchvision). Weights are never downloaded.
Source: Perez et al. 2018 (FiLM, arXiv:1709.07871, eq. 2).
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from dsdiff.errors import ConfigError
from dsdiff.layers.basic import BackboneParams, embedded, run, zero_module
from dsdiff.layers.injection import Injection
from dsdiff.types import Condition, ConditionLayout, Prediction


class SmpParams(BackboneParams):
    """The library's names. encoder_weights stays None: nothing is fetched while a model is built.

    encoder_depth stays 5: shallower encoders keep their deep stages, unused.
    """

    encoder_name: str = "resnet34"
    encoder_depth: Literal[5] = 5
    encoder_weights: None = None
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    decoder_attention_type: str | None = None
    time_channels: int = Field(128, ge=8)

    @model_validator(mode="after")
    def _fits(self) -> "SmpParams":
        if len(self.decoder_channels) != self.encoder_depth:
            raise ValueError(f"decoder_channels {self.decoder_channels} must have {self.encoder_depth} levels")
        if self.dropout:
            raise ValueError("dropout is not supported by this backbone")
        return self


class SmpUNet(nn.Module):
    """See the module. Starts at a zero output."""

    Params = SmpParams

    def __init__(self, params: SmpParams, layout: ConditionLayout) -> None:
        super().__init__()
        try:
            import segmentation_models_pytorch as smp
        except ImportError as error:
            raise ConfigError("backbone 'smp_unet' needs pip install 'dsdiff-mri[smp]'") from error
        self.params, self.multiple = params, 2**params.encoder_depth
        try:
            self.unet = smp.Unet(
                encoder_name=params.encoder_name,
                encoder_depth=params.encoder_depth,
                encoder_weights=None,
                decoder_channels=params.decoder_channels,
                decoder_attention_type=params.decoder_attention_type,
                in_channels=1 + layout.channels,
                classes=params.out_channels,
            )
        except (KeyError, ValueError) as error:
            raise ConfigError(f"backbone.params of 'smp_unet': {error}") from error
        zero_module(self.unet.segmentation_head)
        width = params.time_channels
        self.time_embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.film = nn.ModuleList(
            zero_module(nn.Linear(width, 2 * channels)) for channels in self.unet.encoder.out_channels[1:]
        )
        self.inject = Injection(dict(enumerate(self.unet.encoder.out_channels[1:])), layout)
        _without_statistics(self.unet)

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        kept = self.params.use_checkpoint
        emb = embedded(self.time_embed, t, self.params.time_channels)
        given, *features = run(self.unet.encoder, torch.cat([x_t, cond.maps()], 1), use_checkpoint=kept)
        timed = [given]
        for i, (film, feature) in enumerate(zip(self.film, features, strict=True)):
            scale, shift = film(emb)[:, :, None, None].chunk(2, 1)  # b c 1 1
            timed.append(self.inject(cond, i, feature * (1 + scale) + shift))
        return Prediction(self.unet.segmentation_head(run(self.unet.decoder, timed, use_checkpoint=kept)).float())


def _without_statistics(network: nn.Module) -> None:
    """Batch norms become group norms: the slices of a batch must not mix, and a batch may be one slice.

    Raises `ConfigError` for batch norms that do more than that, as some of timm's do.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            if type(child) is not nn.BatchNorm2d:
                raise ConfigError(
                    f"this encoder has {type(child).__name__}, which mixes slices; take one of torchvision's"
                )
            groups = next(groups for groups in (32, 16, 8, 4, 2, 1) if child.num_features % groups == 0)
            setattr(network, name, nn.GroupNorm(groups, child.num_features))
        else:
            _without_statistics(child)
