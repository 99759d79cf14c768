"""The field's parameters of UNets."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from dsdiff.layers.params import BackboneParams

NO_CLASSES = "no effect there, since num_classes is null; the network of dsdiff has no class embedding"
NO_TRANSFORMER = (
    "no effect there, since use_spatial_transformer is false; the network of dsdiff has self-attention only"
)
# Parameters of latent-diffusion that change nothing in a network without classes and spatial transformer -> why.
INERT_PARAMS = {
    "adm_in_channels": NO_CLASSES,
    "context_dim": NO_TRANSFORMER,
    "transformer_depth": NO_TRANSFORMER,
    "use_linear_in_transformer": NO_TRANSFORMER,
    "disable_self_attentions": NO_TRANSFORMER,
    "disable_middle_self_attn": NO_TRANSFORMER,
}


class UNetParams(BackboneParams):
    """The parameters of guided-diffusion and latent-diffusion.

    The last group are parameters of latent-diffusion for parts that this UNet does not have; only the values that
    leave those parts out are valid.

    Attributes:
        model_channels: Channels of the first level.
        channel_mult: Channels of each level over `model_channels`.
        num_res_blocks: Residual blocks of each level.
        attention_resolutions: Downsampling factors (including `stem`) at which there is self-attention.
        num_heads: Attention heads of a block, unless `num_head_channels` is given.
        num_head_channels: Channels of a head; None (or -1, as the field writes it) to use `num_heads`.
        num_heads_upsample: Attention heads in the decoder if they differ and `legacy` is true; -1 if not.
        use_scale_shift_norm: The time embedding scales and shifts features instead of being added.
        resblock_updown: Resample inside residual blocks.
        conv_resample: Resample with a convolution.
        use_new_attention_order: Split queries, keys and values before heads.
        stem: Folds stem x stem pixels into channels before the first and after the last convolution (pixel unshuffle).
            The network works on a coarser grid at 1 / stem**2 of the cost.
        image_size: Has no effect.
        legacy: Use `num_heads_upsample`.
    """

    model_channels: int = Field(64, ge=32, multiple_of=32)
    channel_mult: tuple[float, ...] = Field((1, 2, 4, 8), min_length=1)
    num_res_blocks: int | tuple[int, ...] = 2
    attention_resolutions: tuple[int, ...] = ()
    num_heads: int = Field(1, ge=-1)
    num_head_channels: int | None = Field(None, ge=1)
    num_heads_upsample: int = Field(-1, ge=-1)
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    conv_resample: bool = True
    use_new_attention_order: bool = False
    stem: int = Field(1, ge=1)

    image_size: int | tuple[int, int] | None = None
    legacy: bool = True
    dims: Literal[2] = 2
    num_classes: None = None
    adm_in_channels: None = None
    use_fp16: Literal[False] = False
    use_spatial_transformer: Literal[False] = False
    context_dim: None = None
    transformer_depth: Literal[1] = 1
    n_embed: None = None

    @field_validator("num_head_channels", mode="before")
    @classmethod
    def _minus_one_is_none(cls, value: object) -> object:
        return None if value == -1 else value

    @model_validator(mode="after")
    def _check_blocks(self) -> "UNetParams":
        if not isinstance(self.num_res_blocks, int) and len(self.num_res_blocks) != len(self.channel_mult):
            raise ValueError(f"num_res_blocks {self.num_res_blocks} must be one number or {len(self.channel_mult)}")
        if min(self.blocks) < 1:
            raise ValueError(f"num_res_blocks is {self.num_res_blocks}; it must be 1 or more")
        return self

    @model_validator(mode="after")
    def _check_widths(self) -> "UNetParams":
        invalid_widths = [width for width in self.widths if width < 32 or width % 32]
        if invalid_widths:
            raise ValueError(
                f"channel_mult {self.channel_mult} makes levels of {invalid_widths} channels; "
                "a width must be 32, 64, 96 ..."
            )
        return self

    @model_validator(mode="after")
    def _check_heads(self) -> "UNetParams":
        if self.num_head_channels is None and self.num_heads < 1:
            raise ValueError("num_heads or num_head_channels is needed: both are -1")

        attended_widths = {self.widths[-1]}  # the middle block always attends
        for factor, width in zip(self.factors, self.widths, strict=True):
            if factor in self.attention_resolutions:
                attended_widths.add(width)

        for width in sorted(attended_widths):
            for heads in {self.heads(width), self.heads(width, up=True)}:
                self._check_head_count(width, heads)
        return self

    def _check_head_count(self, channels: int, heads: int) -> None:
        if heads != 0 and channels % (self.num_head_channels or heads) == 0:
            return
        if self.num_head_channels:
            raise ValueError(f"{channels} channels do not divide into heads of {self.num_head_channels}")
        raise ValueError(f"{channels} channels do not divide by {heads} heads")

    @property
    def factors(self) -> tuple[int, ...]:
        """Downsampling factors of the levels.

        Returns:
            One per level, including `stem`.
        """
        return tuple(self.stem * 2**level for level in range(len(self.channel_mult)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the levels.

        Returns:
            One number per level.
        """
        return tuple(int(multiplier * self.model_channels) for multiplier in self.channel_mult)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Residual blocks of the levels.

        Returns:
            One number per level.
        """
        if isinstance(self.num_res_blocks, int):
            return (self.num_res_blocks,) * len(self.channel_mult)
        return self.num_res_blocks

    @property
    def emb_channels(self) -> int:
        """Features of the time embedding.

        Returns:
            Four times `model_channels`.
        """
        return 4 * self.model_channels

    def heads(self, channels: int, up: bool = False) -> int:
        """Number of attention heads of a block.

        Args:
            channels: Channels of the block.
            up: Whether the block is in the decoder.

        Returns:
            The number of heads.
        """
        if self.num_head_channels:
            return channels // self.num_head_channels
        if up and self.legacy and self.num_heads_upsample > 0:  # latent-diffusion ignores it unless legacy is true
            return self.num_heads_upsample
        return self.num_heads

    @property
    def warnings(self) -> tuple[str, ...]:
        """Legal values that are probably a mistake.

        Returns:
            A sentence for each.
        """
        messages = []
        unused = [str(factor) for factor in self.attention_resolutions if factor not in self.factors]
        if unused:
            messages.append(
                f"attention_resolutions {', '.join(unused)} have no effect: they are downsampling factors, and with "
                f"channel_mult {list(self.channel_mult)} the levels have {', '.join(map(str, self.factors))}"
            )
        if self.model_channels == 32 and not self.use_scale_shift_norm:
            messages.append(
                "with 32 channels every group of the group norm is one channel, so the norm removes the time "
                "embedding: set use_scale_shift_norm or more model_channels"
            )
        return tuple(messages)
