"""The network of a run: a conditioner, which runs once per slice, and a backbone, which runs at every step."""

import math
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsdiff.conditioning import condition, style_image
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.conditioning.disentangle import SwapDecoder
from dsdiff.conditioning.edges import LearnedEdges
from dsdiff.conditioning.encoder import ConditionEncoder
from dsdiff.network_protocols import Backbone
from dsdiff.style.regression import n_style_weights
from dsdiff.types import Condition, Prediction


class Conditioner(nn.Module):
    """Builds conditions. It has weights only if the config has an encoder, learned edges or a style.

    Args:
        config: The conditioning of the run.
        n_contrasts: Number of source contrasts.
        context_slices: Slices of each contrast.
    """

    def __init__(self, config: ConditioningConfig, n_contrasts: int, context_slices: int) -> None:
        super().__init__()
        self.config = config
        self.multiple = 1 if config.encoder == "none" else config.encoder_params.multiple
        self.edges = LearnedEdges() if config.edges == "learned" else None

        params = config.encoder_params
        self.encoder: ConditionEncoder | None = None
        if config.encoder != "none":
            per_contrast = config.encoder == "per_contrast"
            self.encoder = ConditionEncoder(n_contrasts, context_slices, params, per_contrast)
        self.decoder = SwapDecoder(params.channels, params.stem) if config.has_swap_loss else None

        average_style = None  # see `style.regression.StyleCode.weights`
        if config.style != "none":
            average_style = torch.zeros(n_style_weights(config.style, n_contrasts))
        self.register_buffer("average_style", average_style)

    def forward(
        self,
        sources: Float[Tensor, "b s d h w"],
        present: Bool[Tensor, "b s"],
        style: Float[Tensor, "b 1 h w"] | None = None,
    ) -> Condition:
        """Build the condition of a batch of slices.

        Args:
            sources: Robust z-scores.
            present: The contrasts that each case has.
            style: The slices rendered in the style of the target; by default in the average style.

        Returns:
            The condition.
        """
        cond = condition.build_condition(self.config, sources, present)
        if self.edges is not None:
            edges = self.edges(condition.middle_slice(cond.masked_sources))
            cond = replace(cond, edges=edges)
        if self.encoder is not None:
            cond = replace(cond, encoder_features=self.encoder(cond.masked_sources, present))
        if self.config.style != "none":
            if style is None:
                average_style = cast(Tensor, self.average_style)
                style = style_image.render_slice_style(average_style, self.config.style, sources, present)
            cond = replace(cond, style=style)
        return cond


class Network(nn.Module):
    """A backbone with its conditioner. It satisfies `network_protocols.Backbone`.

    Args:
        backbone: A `network_protocols.Backbone`.
        conditioner: Builds the condition that the backbone takes.
    """

    def __init__(self, backbone: nn.Module, conditioner: Conditioner) -> None:
        super().__init__()
        self.backbone = backbone
        self.conditioner = conditioner
        self.multiple = math.lcm(cast(Backbone, backbone).multiple, conditioner.multiple)

    def condition(
        self,
        sources: Float[Tensor, "b s d h w"],
        present: Bool[Tensor, "b s"],
        style: Float[Tensor, "b 1 h w"] | None = None,
    ) -> Condition:
        """Build the condition of a batch of slices, once for all steps and samples.

        Args:
            sources: Robust z-scores.
            present: The contrasts that each case has.
            style: The slices rendered in the style of the target; by default in the average style.

        Returns:
            The condition.
        """
        return self.conditioner(sources, present, style)

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """Run the backbone.

        Args:
            x_t: The noisy slices.
            t: Timesteps, see `network_protocols.Backbone`.
            cond: The result of `condition`.

        Returns:
            The prediction of the backbone.
        """
        return self.backbone(x_t, t, cond)


def add_backbone_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the weights of a backbone to those of a network (see docs/weights.md).

    Args:
        weights: A state dict of a network or of its backbone.

    Returns:
        A state dict of a network: the names of a backbone's weights begin with "backbone.".
    """
    if all(name.startswith(("backbone.", "conditioner.")) for name in weights):
        return weights
    return {f"backbone.{name}": tensor for name, tensor in weights.items()}
