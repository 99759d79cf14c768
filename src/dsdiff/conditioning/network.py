"""The network of a run: a conditioner, which sees the inputs once per slice, and a backbone, called at every step."""

import math
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsdiff.conditioning import condition, style_image
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.conditioning.disentangle import SwapDecoder
from dsdiff.conditioning.edges import LearnedStructure
from dsdiff.conditioning.encoder import ConditionEncoder
from dsdiff.style.regression import KNOTS
from dsdiff.types import Backbone, Condition, Prediction


class Conditioner(nn.Module):
    """Builds conditions. It has weights only where the config asks for an encoder, learned structure or style."""

    def __init__(self, config: ConditioningConfig, contrasts: int, slab: int) -> None:
        super().__init__()
        self.config = config
        self.multiple = 1 if config.encoder == "none" else config.encoder_params.multiple
        self.edges = LearnedStructure() if config.edges == "learned" else None
        self.encoder: ConditionEncoder | None = None
        if config.encoder != "none":
            self.encoder = ConditionEncoder(contrasts, slab, config.encoder_params, config.encoder == "per_contrast")
        params = config.encoder_params
        self.decoder = SwapDecoder(params.channels, params.stem) if config.swaps else None
        told = config.style != "none"
        code = torch.zeros(contrasts * (1 + len(KNOTS[config.style])) + 1) if told else None
        self.register_buffer("average_style", code)

    def forward(
        self,
        sources: Float[Tensor, "b s d h w"],
        present: Bool[Tensor, "b s"],
        styled: Float[Tensor, "b 1 h w"] | None = None,
    ) -> Condition:
        """`styled`: the slices in the target's style (see `style`); without it they are in the average one."""
        cond = condition.build(self.config, sources, present)
        if self.edges is not None:
            cond = replace(cond, edges=self.edges(condition.middle(cond.known)))
        if self.encoder is not None:
            cond = replace(cond, encoded=self.encoder(cond.known, present))
        if self.config.style != "none":
            average = style_image.image(cast(Tensor, self.average_style), sources, present)
            cond = replace(cond, style=average if styled is None else styled)
        return cond


class Network(nn.Module):
    """See the module. It satisfies `types.Backbone`, and `condition` builds the condition that it takes."""

    def __init__(self, backbone: nn.Module, conditioner: Conditioner) -> None:
        super().__init__()
        self.backbone, self.conditioner = backbone, conditioner
        self.multiple = math.lcm(cast(Backbone, backbone).multiple, conditioner.multiple)

    def condition(
        self,
        sources: Float[Tensor, "b s d h w"],
        present: Bool[Tensor, "b s"],
        styled: Float[Tensor, "b 1 h w"] | None = None,
    ) -> Condition:
        """What the network may know of these slices: to be computed once, whatever the steps and samples."""
        return self.conditioner(sources, present, styled)

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        return self.backbone(x_t, t, cond)


def named(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under a network's names; those of a backbone alone (docs/weights.md) get its prefix."""
    parts = ("backbone.", "conditioner.")
    return (
        weights if all(name.startswith(parts) for name in weights) else {f"backbone.{k}": weights[k] for k in weights}
    )
