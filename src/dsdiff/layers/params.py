"""The parameters that every backbone takes."""

from pydantic import Field

from dsdiff.schema import ConfigModel


class BackboneParams(ConfigModel):
    """Parameters of every backbone. Unknown keys raise an error.

    Attributes:
        in_channels: Channels of x_t and the condition together. It follows from data and conditioning; if it is given,
            it is compared with them.
        out_channels: Output channels.
        dropout: Probability of dropout.
        use_checkpoint: Gradient checkpointing: less memory in training for about a third more time.
        fused: Use torch's scaled-dot-product attention; otherwise compute attention step by step.
    """

    in_channels: int | None = Field(None, ge=1)
    out_channels: int = Field(1, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    use_checkpoint: bool = False
    fused: bool = True

    @property
    def n_outputs(self) -> int:
        """Number of channels of `Prediction.value`.

        Returns:
            At least 1.
        """
        return self.out_channels

    @property
    def warnings(self) -> tuple[str, ...]:
        """Legal values that are probably a mistake.

        Returns:
            A sentence for each.
        """
        return ()
