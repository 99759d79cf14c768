"""Configuration of the loss and of training."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from dsdiff.schema import ConfigModel
from dsdiff.system.config_path import OptionalPath

# Keys of training in configs of the field -> the key of dsdiff.
KEYS_OF_THE_FIELD = {
    "learning_rate": "training.lr",
    "base_learning_rate": "training.lr",
    "lr": "training.lr",
    "batch_size": "training.batch_size",
    "gradient_accumulation": "training.accumulate",
    "gradient_accumulation_steps": "training.accumulate",
    "accumulate_grad_batches": "training.accumulate",
    "gradient_clip_val": "training.clip",
    "weight_decay": "training.weight_decay",
    "warmup_steps": "training.warmup",
    "max_steps": "training.steps",
    "epochs": "training.steps",
    "max_epochs": "training.steps",
    "ema_decay": "training.ema",
    "ema_rate": "training.ema",
}


class LossConfig(ConfigModel):
    """One term of the loss. Voxels outside the brain count nothing.

    Attributes:
        target: charbonnier, l1 and l2 compare the output of the network with what it should predict. ssim and gradient
            compare the T1ce that it implies with the true one. edges compares the direction of edges with the source
            image, except in enhancing tumour. ranking asks that enhancing tumour (in patients with a segmentation) is
            brighter than the rest of its slice, and than slices of the batch without enhancement.
        weight: Factor of the term in the sum.
        epsilon: Error at which charbonnier turns from quadratic to linear (default 1.0); only for charbonnier.
        tumour, enhancing: Weights of voxels in the tumour and in enhancing tumour, relative to the rest of the brain.
            In ranking they apply to the voxels that enhancing tumour is compared with.
    """

    target: Literal["charbonnier", "l1", "l2", "ssim", "gradient", "edges", "ranking"] = "charbonnier"
    weight: float = Field(1.0, gt=0)
    epsilon: float | None = Field(None, gt=0)
    tumour: float = Field(3.0, gt=0)
    enhancing: float = Field(6.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _set_default_epsilon(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("target", "charbonnier") != "charbonnier":
            return values

        return {"epsilon": 1.0} | values

    @model_validator(mode="after")
    def _check_epsilon(self) -> "LossConfig":
        if (self.epsilon is None) == (self.target == "charbonnier"):
            raise ValueError(
                f"epsilon is {self.epsilon} for {self.target}; charbonnier needs it, other losses have none"
            )

        return self


class TrainingConfig(ConfigModel):
    """How a network is trained.

    Attributes:
        steps: Optimizer steps, each of `batch_size * accumulate` slices in every process.
        batch_size: Slices of each process that are computed at once.
        accumulate: Batches whose gradients add up to one step.
        lr: Learning rate after warm-up; it then falls as a cosine.
        final_lr: Learning rate at the end of the cosine; None for 1% of `lr`.
        warmup: Steps over which the learning rate rises.
        weight_decay: Weight decay of AdamW.
        clip: Largest norm of the gradient.
        init_from: Model folder whose weights the training starts from (see `training.weight_transfer`).
        ema: Decay of the exponential moving average of the weights. Of several, the one that validates best is kept.
        strategy: How processes share the work. ddp averages gradients, fsdp also shards the weights, auto takes ddp if
            torchrun started several processes.
        precision: auto takes bf16 if the device has it; fp16 scales the loss.
        compile: Use torch.compile on CUDA.
        validate_every: Steps between validations.
        validate_volumes: Number of held-out patients whose full volumes are synthesized and scored at each validation.
        select_by: What chooses the best weights: the loss on fixed slices, or a mean score of these volumes.
        patience: Training ends after so many validations without improvement; None to train all steps.
        save_every: Steps between saved training states.
        tensorboard: Log curves and images for TensorBoard.
    """

    steps: int = Field(4000, ge=1)
    batch_size: int = Field(6, ge=1)
    accumulate: int = Field(1, ge=1)
    lr: float = Field(3e-4, gt=0)
    final_lr: float | None = Field(None, ge=0)
    warmup: int = Field(200, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    init_from: OptionalPath = None
    ema: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field((0.999,), min_length=1)  # a single value needs no list
    strategy: Literal["auto", "single", "ddp", "fsdp"] = "auto"
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    compile: bool = False
    validate_every: int = Field(500, ge=1)
    validate_volumes: int = Field(0, ge=0)
    select_by: Literal["loss", "psnr", "ssim", "auc_brain", "auc_tumour", "enhancement_recovery"] = "loss"
    patience: int | None = Field(None, ge=1)
    save_every: int = Field(250, ge=1)
    tensorboard: bool = False

    @field_validator("ema", mode="before")
    @classmethod
    def _wrap_scalar(cls, decays: Any) -> Any:
        return [decays] if isinstance(decays, int | float) else decays

    @field_serializer("ema", when_used="json")
    def _serialize_scalar(self, decays: tuple[float, ...]) -> Any:
        return decays[0] if len(decays) == 1 else list(decays)

    @model_validator(mode="after")
    def _check_ema_and_selection(self) -> "TrainingConfig":
        if len(set(self.ema)) < len(self.ema):
            raise ValueError(f"ema {list(self.ema)} lists a decay twice")
        if self.select_by != "loss" and not self.validate_volumes:
            raise ValueError(f"select_by '{self.select_by}' scores volumes: set validate_volumes to 1 or more")

        return self
