"""The DS-Diff UNet: four streams, four kinds of features at the bottleneck, gated skips.

Heads for style and content read every contrast, a head for anatomy those that show anatomy, one for lesions those that
show lesions. What a head says is averaged over its contrasts, weighted by channel, and fused with what a head of its
own says of the noisy image. An edge map, where the condition has one, enters its contrast's stream as a channel.
Source: the DS-Diff recipes, written anew from their description; the learnable gate is described there, not present.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsdiff.errors import ConfigError
from dsdiff.layers.basic import embedded, run, zero_module
from dsdiff.layers.multi_encoder import SqueezeExcitation, Streams, all_there, mean, shared
from dsdiff.layers.unet_blocks import ConvParams, decode, decoder, head, middle, time_embed
from dsdiff.types import Condition, ConditionLayout, Prediction


class DSParams(ConvParams):
    """skips: "gated" weighs the streams pixel by pixel (a plain mean before training), "mean" averages them.

    anatomy, lesion: names of the contrasts that the two heads read; those that the data does not have are left out.
    """

    skips: Literal["gated", "mean"] = "gated"
    anatomy: tuple[str, ...] = ("t1", "t2")
    lesion: tuple[str, ...] = ("t2", "flair")


class Gate(nn.Module):
    """Streams weighed against one another at every pixel; those that are absent get nothing. Starts as their mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = zero_module(nn.Conv2d(channels, 1, 1))

    def forward(self, features: Float[Tensor, "b s c h w"], there: Bool[Tensor, "b s"]) -> Float[Tensor, "b c h w"]:
        scores = shared(self.score, features).float().masked_fill(~there[:, :, None, None, None], -torch.inf)
        return (features * scores.softmax(1).type(features.dtype)).sum(1)


class DSUNet(nn.Module):
    """See the module. Starts at a zero output. Features: what each head says, contrast by contrast (b n c h w)."""

    Params, features = DSParams, ("style", "content", "anatomy", "lesion")

    def __init__(self, params: DSParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params, self.multiple = params, params.factors[-1]
        self.reads = {
            "style": list(range(len(layout.contrasts))),
            "content": list(range(len(layout.contrasts))),
            "anatomy": _positions("anatomy", params.anatomy, layout.contrasts),
            "lesion": _positions("lesion", params.lesion, layout.contrasts),
        }
        self.time_embed = time_embed(params)
        self.streams = Streams(params, layout)
        width = self.streams.widths[-1]
        self.heads = nn.ModuleDict({name: nn.Conv2d(width, width, 3, padding=1) for name in ("noisy", *self.reads)})
        self.weigh = SqueezeExcitation(width)
        self.fuse = nn.Conv2d((1 + len(self.reads)) * width, width, 1)
        self.gates = nn.ModuleList(Gate(width) for width in self.streams.widths if params.skips == "gated")
        self.middle_block = middle(width, params)
        self.output_blocks = decoder(self.streams.widths, params)
        self.out = head(params)
        self.shuffle = nn.PixelShuffle(params.stem)

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        there, kept = all_there(cond.present), self.params.use_checkpoint
        emb = embedded(self.time_embed, t, self.params.model_channels)
        features = self.streams(x_t, cond, emb)
        noisy, contrasts = features[-1][:, 0], features[-1][:, 1:]
        said = {name: shared(self.heads[name], contrasts[:, reads]) for name, reads in self.reads.items()}
        means = [self.weigh(mean(said[name], cond.present[:, reads])) for name, reads in self.reads.items()]
        h = self.fuse(torch.cat([self.heads["noisy"](noisy), *means], 1))
        h = run(self.middle_block, h, emb, use_checkpoint=kept)
        skips = self._gated(features, there) if self.gates else [mean(skip, there) for skip in features]
        h = decode(self.output_blocks, h, skips, emb, kept)
        return Prediction(self.shuffle(self.out(h)).float(), said)

    def _gated(self, features: list[Tensor], there: Bool[Tensor, "b s"]) -> list[Tensor]:
        return [gate(skip, there) for gate, skip in zip(self.gates, features, strict=True)]


def _positions(role: str, names: tuple[str, ...], contrasts: tuple[str, ...]) -> list[int]:
    found = [contrasts.index(name) for name in names if name in contrasts]
    if not found:
        raise ConfigError(
            f"backbone.params.{role} is {list(names)}, and data.contrasts {list(contrasts)} has none of it"
        )
    return found
