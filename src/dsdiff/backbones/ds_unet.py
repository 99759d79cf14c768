"""The DS-Diff UNet: four streams, four kinds of features at the bottleneck, gated skip connections.

The style head and the content head read every contrast. The anatomy head reads contrasts that show anatomy, the lesion
head those that show lesions. The output of a head is averaged over its contrasts and weighted by channel, then fused
with the output of a separate head of the noisy image. An edge map, if the condition has one, enters the stream of its
contrast as a channel.
`ORIGINAL_STRUCTURE` holds the parameters with which the network computes what `DSUnetModel` does.
Source: the DS-Diff recipes, implemented from their description. The description has the learnable gate, the recipes do
not.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsdiff.conditioning.encoder import mean_over_present
from dsdiff.errors import ConfigError
from dsdiff.layers.disentangled_heads import ResidualHead, SqueezeExcitation
from dsdiff.layers.multi_encoder import MultiEncoder, apply_per_stream, with_noisy_stream
from dsdiff.layers.primitives import embed_timestep, maybe_checkpoint, zero_module
from dsdiff.layers.unet_params import UNetParams
from dsdiff.layers.unet_stages import build_decoder, build_head, build_middle, build_time_embed, run_decoder
from dsdiff.types import Condition, ConditionLayout, FeaturePair, Prediction, StreamFeatures

# The structure of `DSUnetModel`. Weights that were trained there need it.
ORIGINAL_STRUCTURE = {
    "skips": "mean",
    "head_type": "residual",
    "excitation": "separate",
    "excitation_bias": False,
    "middle": "noisy",
}


class DSParams(UNetParams):
    """Parameters of the DS-Diff UNet.

    Attributes:
        skips: "gated" weighs the streams pixel by pixel (a plain mean before training), "mean" averages them.
        head_type: "convolution" is a 3 x 3 convolution of full width. "residual" is a residual 3 x 3 convolution and a
            1 x 1 convolution to half the width, see `ResidualHead`.
        excitation: "shared" is one squeeze-excitation for all heads. "separate" is one for each head, followed by a
            3 x 3 convolution.
        excitation_bias: Whether the linear layers of the squeeze-excitations have a bias.
        middle: "fused" puts the middle block after the fusion; the noisy stream has a head of its own. "noisy" puts
            it on the noisy stream instead of that head; SiLU precedes the fusion.
        anatomy: Names of the contrasts that the anatomy head reads. Names that the data does not have are ignored.
        lesion: The same for the lesion head.
    """

    skips: Literal["gated", "mean"] = "gated"
    head_type: Literal["convolution", "residual"] = "convolution"
    excitation: Literal["shared", "separate"] = "shared"
    excitation_bias: bool = True
    middle: Literal["fused", "noisy"] = "fused"
    anatomy: tuple[str, ...] = ("t1", "t2")
    lesion: tuple[str, ...] = ("t2", "flair")


class Gate(nn.Module):
    """Averages streams with weights that differ from pixel to pixel. Absent streams get none. Starts as their mean.

    Args:
        channels: Channels of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = zero_module(nn.Conv2d(channels, 1, 1))

    def forward(self, features: Float[Tensor, "b s c h w"], present: Bool[Tensor, "b s"]) -> Float[Tensor, "b c h w"]:
        """Average streams.

        Args:
            features: Features of every stream.
            present: The streams that each case has.

        Returns:
            The weighted mean.
        """
        scores = apply_per_stream(self.score, features).float()  # b s 1 h w
        scores = scores.masked_fill(~present[:, :, None, None, None], -torch.inf)
        return (features * scores.softmax(1).type(features.dtype)).sum(1)


class DSUNet(nn.Module):
    """The DS-Diff UNet. Its output starts at zero. It returns the features of all heads of the contrasts.

    Args:
        params: Size of the network.
        layout: The channels of the condition.

    Raises:
        ConfigError: The data has no contrast for the anatomy head or for the lesion head.
    """

    Params = DSParams
    returns_feature_pairs = True
    returns_lesion_features = True

    def __init__(self, params: DSParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params = params
        self.multiple = params.factors[-1]
        all_contrasts = list(range(len(layout.contrasts)))
        self.contrasts_of_head = {
            "style": all_contrasts,
            "content": all_contrasts,
            "anatomy": _contrast_indices("anatomy", params.anatomy, layout.contrasts),
            "lesion": _contrast_indices("lesion", params.lesion, layout.contrasts),
        }
        self.time_embed = build_time_embed(params)
        self.streams = MultiEncoder(params, layout)

        width = self.streams.widths[-1]
        self.heads, head_width = self._build_heads(width)
        self.weigh = _build_excitations(tuple(self.contrasts_of_head), head_width, params)
        self.fuse = nn.Conv2d(width + len(self.contrasts_of_head) * head_width, width, 1)
        self.gates = nn.ModuleList(Gate(width) for width in self.streams.widths if params.skips == "gated")

        self.middle_block = build_middle(width, params)
        self.output_blocks = build_decoder(self.streams.widths, params)
        self.out = build_head(params)
        self.shuffle = nn.PixelShuffle(params.stem)

    def _build_heads(self, width: int) -> tuple[nn.ModuleDict, int]:
        """The heads, and the channels that a head of the contrasts returns."""
        heads = nn.ModuleDict()
        if self.params.middle == "fused":
            heads["noisy"] = nn.Conv2d(width, width, 3, padding=1)

        for name in self.contrasts_of_head:
            if self.params.head_type == "residual":
                heads[name] = ResidualHead(width)
            else:
                heads[name] = nn.Conv2d(width, width, 3, padding=1)
        return heads, width // 2 if self.params.head_type == "residual" else width

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """Predict from noisy slices; see `network_protocols.Backbone`.

        Args:
            x_t: The noisy slices.
            t: Timesteps.
            cond: The condition.

        Returns:
            The prediction, with the features of the style, content, anatomy and lesion heads.
        """
        use_checkpoint = self.params.use_checkpoint
        emb = embed_timestep(self.time_embed, t, self.params.model_channels)

        features = self.streams(x_t, cond, emb)
        noisy, contrasts = features[-1][:, 0], features[-1][:, 1:]  # b c h w, b s c h w
        if self.params.middle == "noisy":
            noisy = maybe_checkpoint(self.middle_block, noisy, emb, use_checkpoint=use_checkpoint)
        head_outputs = {}
        for name, indices in self.contrasts_of_head.items():
            outputs = apply_per_stream(self.heads[name], contrasts[:, indices])  # b n c h w
            head_outputs[name] = StreamFeatures(outputs, cond.present[:, indices])

        h = self._fuse(noisy, head_outputs)
        if self.params.middle == "fused":
            h = maybe_checkpoint(self.middle_block, h, emb, use_checkpoint=use_checkpoint)
        skips = self._merge_streams(features, with_noisy_stream(cond.present))
        h = run_decoder(self.output_blocks, h, skips, emb, use_checkpoint)

        pair = FeaturePair(
            shared=head_outputs["content"].features,
            specific=head_outputs["style"].features,
            present=cond.present,
            anatomy=head_outputs["anatomy"],
            lesion=head_outputs["lesion"],
        )
        return Prediction(self.shuffle(self.out(h)).float(), (pair,))

    def _fuse(self, noisy: Tensor, head_outputs: dict[str, StreamFeatures]) -> Float[Tensor, "b c h w"]:
        """Fuse the noisy stream with the mean of each head over its contrasts, weighted by channel."""
        inputs = [self.heads["noisy"](noisy) if self.params.middle == "fused" else noisy]  # b c h w
        for name, output in head_outputs.items():
            weigh = self.weigh[name] if isinstance(self.weigh, nn.ModuleDict) else self.weigh
            inputs.append(weigh(mean_over_present(output.features, output.present)))

        joined = torch.cat(inputs, 1)
        return self.fuse(joined if self.params.middle == "fused" else F.silu(joined))

    def _merge_streams(self, features: list[Tensor], streams_present: Bool[Tensor, "b s"]) -> list[Tensor]:
        if not self.gates:
            return [mean_over_present(skip, streams_present) for skip in features]
        return [gate(skip, streams_present) for gate, skip in zip(self.gates, features, strict=True)]


def _build_excitations(heads: tuple[str, ...], width: int, params: DSParams) -> SqueezeExcitation | nn.ModuleDict:
    """One squeeze-excitation for all heads, or one with a convolution for each."""
    if params.excitation == "shared":
        return SqueezeExcitation(width, bias=params.excitation_bias)

    excitations = nn.ModuleDict()
    for name in heads:
        excitation = SqueezeExcitation(width, bias=params.excitation_bias)
        excitations[name] = nn.Sequential(excitation, nn.Conv2d(width, width, 3, padding=1))
    return excitations


def _contrast_indices(head: str, names: tuple[str, ...], contrasts: tuple[str, ...]) -> list[int]:
    """The contrasts that a head reads. Raises `ConfigError` if the data has none of them."""
    indices = [contrasts.index(name) for name in names if name in contrasts]
    if not indices:
        raise ConfigError(
            f"backbone.params.{head} is {list(names)}, and data.contrasts {list(contrasts)} has none of these: "
            "name at least one contrast of the data"
        )
    return indices
