"""The objects that packages exchange: Condition, Prediction and the Backbone protocol.

Axis letters: b batch, s source contrast, d context slice, c channel, h w in-plane, x y z voxel, k step.
In an axial slice h, w are x (left to right) and y (posterior to anterior); coronal: x, z; sagittal: z, y.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Fusion = Literal["concat", "spade"]
ChannelKind = Literal["x_t", "source", "edges", "shared", "specific", "style"]


@dataclass(frozen=True)
class Channel:
    """The content of one input channel of a network. Weight transfer matches channels by it.

    Attributes:
        kind: The image that the channel carries. `shared` and `specific` are features of the condition encoder.
        contrast: Its contrast; None if it has none, or if the layer reads one contrast at a time.
        index: For a source the distance from the middle slice, for encoder features the number of the feature.
    """

    kind: ChannelKind
    contrast: str | None = None
    index: int = 0


@dataclass(frozen=True)
class ConditionLayout:
    """The channels of a `Condition`, known before one is built. They decide the width of a network's input.

    Attributes:
        contrasts: Names of the source contrasts, in order.
        context_slices: Slices of each contrast, the predicted slice in the middle.
        has_edges: Whether there is an edge map of every contrast.
        encoder_channels: Shared features, and as many specific features of each contrast; 0 without an encoder.
        has_style: Whether there is a style image.
        fusion: See `Condition`.
    """

    contrasts: tuple[str, ...]
    context_slices: int = 1
    has_edges: bool = False
    encoder_channels: int = 0
    has_style: bool = False
    fusion: Fusion = "concat"

    @property
    def map_channels(self) -> list[Channel]:
        """The channels of `Condition.maps`.

        Returns:
            Slices contrast by contrast, then guidance if `fusion` is "concat", then the style image.
        """
        channels = []
        for contrast in self.contrasts:
            channels += self.source_channels(contrast)
        if self.fusion == "concat":
            channels += self.guidance_channels
        return channels + self._style_channels()

    @property
    def stream_channels(self) -> list[Channel]:
        """The channels of `Condition.stream`, the same for every contrast.

        Returns:
            Slices, then the edge map and encoder features if `fusion` is "concat", then the style image.
        """
        channels = self.source_channels()
        if self.fusion == "concat":
            if self.has_edges:
                channels.append(Channel("edges"))
            channels += self._feature_channels("shared")
            channels += self._feature_channels("specific")
        return channels + self._style_channels()

    @property
    def guidance_channels(self) -> list[Channel]:
        """The channels of `Condition.guidance`.

        Returns:
            Edge maps contrast by contrast, then shared features, then specific features contrast by contrast.
        """
        channels = [Channel("edges", contrast) for contrast in self.contrasts if self.has_edges]
        channels += self._feature_channels("shared")
        for contrast in self.contrasts:
            channels += self._feature_channels("specific", contrast)
        return channels

    @property
    def fused_channels(self) -> list[Channel]:
        """The guidance channels that enter inside the network rather than beside x_t.

        Returns:
            `guidance_channels` if `fusion` is "spade", else none.
        """
        return self.guidance_channels if self.fusion == "spade" else []

    def source_channels(self, contrast: str | None = None) -> list[Channel]:
        """The slices of one contrast.

        Args:
            contrast: Name of the contrast; None for a layer that reads whichever contrast.

        Returns:
            One channel per context slice, in order.
        """
        half = self.context_slices // 2
        return [Channel("source", contrast, offset) for offset in range(-half, half + 1)]

    def _feature_channels(self, kind: ChannelKind, contrast: str | None = None) -> list[Channel]:
        return [Channel(kind, contrast, i) for i in range(self.encoder_channels)]

    def _style_channels(self) -> list[Channel]:
        return [Channel("style")] if self.has_style else []


@dataclass(frozen=True)
class EncoderFeatures:
    """Features of the sources by the condition encoder, one tensor per scale, the finest first. Absent contrasts: 0.

    Attributes:
        shared: Features of every contrast that describe anatomy.
        specific: Features of every contrast that describe that contrast's appearance.
        shared_mean: Mean of `shared` over the contrasts that are present.
    """

    shared: tuple[Float[Tensor, "b s c _ _"], ...]
    specific: tuple[Float[Tensor, "b s c _ _"], ...]
    shared_mean: tuple[Float[Tensor, "b c _ _"], ...]

    def sum_scales(self, size: tuple[int, int]) -> list[Float[Tensor, "b c _ _"]]:
        """Resize the features of all scales to one size and add them up.

        Args:
            size: Height and width of the result.

        Returns:
            The shared mean, then the specific features of every contrast.

        Source: the sum of resized levels of Kirillov et al. 2019 (panoptic FPN, arXiv:1901.02446, section 3.1).
        """
        levels = []
        for shared_mean, specific in zip(self.shared_mean, self.specific, strict=True):
            level = torch.cat([shared_mean, specific.flatten(1, 2)], 1)  # b (c + s c) h w
            levels.append(resize_maps(level, size))
        return list(sum(levels[1:], levels[0]).split(self.shared_mean[0].shape[1], 1))


@dataclass(frozen=True)
class Condition:
    """The input of a network besides x_t and t. It depends on the source contrasts only, so it is built once a slice.

    Networks read it through `maps` or `stream`, and `guidance` at each of their scales. There an absent contrast is
    zero. A contrast that is present is never zero all over the brain, so a network can see which are absent.

    Attributes:
        sources: Robust z-scores of every source contrast in the slice and its context slices, the slice in the middle.
        present: The contrasts that this case has. Code branches on it, never on values.
        edges: One edge map per contrast; None without edge guidance.
        encoder_features: Features of the sources by the condition encoder; None without an encoder.
        style: The slice rendered in the tissue contrast of the target, without enhancement; None without a style.
        fusion: How edges and encoder features enter a network: "concat" as channels beside x_t, "spade" at every scale.
    """

    sources: Float[Tensor, "b s d h w"]
    present: Bool[Tensor, "b s"]
    edges: Float[Tensor, "b s h w"] | None = None
    encoder_features: EncoderFeatures | None = None
    style: Float[Tensor, "b 1 h w"] | None = None
    fusion: Fusion = "concat"

    @property
    def masked_sources(self) -> Float[Tensor, "b s d h w"]:
        """The sources with absent contrasts set to zero.

        Returns:
            Robust z-scores, (b, s, d, h, w).
        """
        return self.sources.where(self.present[:, :, None, None, None], 0)

    def maps(self) -> Float[Tensor, "b c h w"]:
        """Stack everything that has the slice's shape as channels.

        Returns:
            (b, c, h, w), the channels of `ConditionLayout.map_channels`.
        """
        channels = [self.masked_sources.flatten(1, 2)]  # b (s d) h w
        if self.fusion == "concat":
            channels += self._guidance(self._size())
        if self.style is not None:
            channels.append(self.style)
        return torch.cat(channels, 1)

    def stream(self, contrast: int) -> Float[Tensor, "b c h w"]:
        """Stack what belongs to one contrast as channels.

        Args:
            contrast: Its number in `ConditionLayout.contrasts`.

        Returns:
            (b, c, h, w), the channels of `ConditionLayout.stream_channels`.
        """
        channels = [self.masked_sources[:, contrast]]  # b d h w
        if self.fusion == "concat" and self.edges is not None:
            present = self.present[:, contrast, None, None, None]  # b 1 1 1
            channels.append(self.edges[:, contrast, None].where(present, 0))
        if self.fusion == "concat" and self.encoder_features is not None:
            shared_mean, *specific = self.encoder_features.sum_scales(self._size())
            channels += [shared_mean, specific[contrast]]
        if self.style is not None:
            channels.append(self.style)
        return torch.cat(channels, 1)

    def guidance(self, size: tuple[int, int]) -> Float[Tensor, "b c _ _"]:
        """Stack edge maps and encoder features, resized.

        Args:
            size: Height and width of the result.

        Returns:
            The channels of `ConditionLayout.guidance_channels`.
        """
        return torch.cat(self._guidance(size), 1)

    def _guidance(self, size: tuple[int, int]) -> list[Tensor]:
        channels = []
        if self.edges is not None:
            edges = self.edges.where(self.present[:, :, None, None], 0)
            channels.append(resize_maps(edges, size))
        if self.encoder_features is not None:
            channels += self.encoder_features.sum_scales(size)
        return channels

    def _size(self) -> tuple[int, int]:
        return self.sources.shape[-2], self.sources.shape[-1]


def resize_maps(maps: Float[Tensor, "b c _ _"], size: tuple[int, int]) -> Float[Tensor, "b c _ _"]:
    """Resize images: by means over areas if the result is smaller, bilinearly if it is larger.

    Args:
        maps: Images.
        size: Height and width of the result.
    """
    if tuple(maps.shape[-2:]) == size:
        return maps
    if size[1] < maps.shape[-1]:
        return F.interpolate(maps, size, mode="area")
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class StreamFeatures:
    """Features that one head computes from several contrasts.

    Attributes:
        features: Features of every contrast that the head reads.
        present: The contrasts among these that each case has.
    """

    features: Float[Tensor, "b s c h w"]
    present: Bool[Tensor, "b s"]


@dataclass(frozen=True)
class FeaturePair:
    """Shared and specific features of every contrast (or encoder stream) at one scale, for disentanglement losses.

    Attributes:
        shared: Features that should describe anatomy.
        specific: Features that should describe the contrast's appearance.
        present: The contrasts (or streams) that each case has.
        anatomy: Features of the contrasts that show anatomy; None without an anatomy head.
        lesion: Features of the contrasts that show lesions; None without a lesion head.
    """

    shared: Float[Tensor, "b s c h w"]
    specific: Float[Tensor, "b s c2 h w"]
    present: Bool[Tensor, "b s"]
    anatomy: StreamFeatures | None = None
    lesion: StreamFeatures | None = None


@dataclass(frozen=True)
class Prediction:
    """The output of a backbone.

    Attributes:
        value: The prediction, in the parametrization of the process. Samplers read nothing else.
        features: Disentangled features for auxiliary losses; empty for most backbones.
    """

    value: Float[Tensor, "b c h w"]
    features: tuple[FeaturePair, ...] = ()
