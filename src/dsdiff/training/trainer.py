"""Network, averages and optimizer of a run, and one training step (`Trainer.train_step`)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dsdiff.conditioning.network import Network
from dsdiff.config.run import RunConfig
from dsdiff.config.training import TrainingConfig
from dsdiff.data.assemble_cohort import TrainingData
from dsdiff.data.batch_sampling import Batch
from dsdiff.errors import ConfigError, DsdiffError
from dsdiff.model.metadata import ModelMetadata
from dsdiff.qc import membership, ood
from dsdiff.system import distributed
from dsdiff.system.distributed import ProcessGroup
from dsdiff.training import weight_transfer
from dsdiff.training.ema import EMA
from dsdiff.training.loss_module import LossModule

FINAL_LR_FRACTION = 0.01  # of the learning rate, at the end of the cosine, unless training.final_lr is given


class TrainingDivergedError(DsdiffError):
    """A loss or a gradient is not finite; the weights are unchanged.

    Args:
        message: What happened, and what to do.
        cases: Cases of the slices that this process trained on.
    """

    def __init__(self, message: str, cases: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.cases = tuple(cases)


class Trainer:
    """Everything that a training step changes and a resume restores.

    Args:
        config: The run.
        process_group: Processes of the run, or the device of a single one.
        resumes: A resume restores the weights next; `training.init_from` is not read.

    Raises:
        ConfigError: The config does not fit the device, the processes or the model to start from.
        ModelError: The model to start from cannot be read.
    """

    def __init__(self, config: RunConfig, process_group: torch.device | ProcessGroup, resumes: bool = False) -> None:
        torch.manual_seed(config.seed)
        if not isinstance(process_group, ProcessGroup):
            process_group = ProcessGroup(process_group)
        settings = config.training

        self.config = config
        self.process_group = process_group
        self.device = process_group.device
        self.step = 0
        self.metadata = ModelMetadata(processes=process_group.size)
        self.fingerprints: dict[str, str] = {}  # see `assemble_cohort.data_fingerprints`

        self.network = config.build_network()
        if settings.init_from is not None and not resumes:
            lineage = weight_transfer.init_weights_from(self.network, config, settings.init_from)
            self.metadata = self.metadata.model_copy(update={"lineage": lineage})
        self._move_to_device()

        self.loss_module = LossModule(config, self.network)
        self.process = self.loss_module.process
        self.wrapped = distributed.wrap(self.loss_module, settings.strategy, self.process_group)
        self.averages = [EMA(self.network, decay) for decay in settings.ema]
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")

    def _move_to_device(self) -> None:
        """Move the network to its device, and compile it.

        On CUDA its convolutions are fastest in the layout `channels_last`. FSDP shards only the default layout.
        """
        settings = self.config.training
        is_cuda = self.device.type == "cuda"
        if settings.compile and not is_cuda:
            raise ConfigError(
                f"training.compile needs CUDA; this device is {self.device.type}, where it costs more than it gains"
            )

        self.network.to(self.device)
        if is_cuda and settings.strategy != "fsdp":
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if settings.compile:
            self.network.backbone.compile()

    def train_step(self, batch: Batch, generator: torch.Generator) -> float:
        """Train on this process' share of a batch, in `training.accumulate` parts.

        Times and noise are sampled for the batch of all processes. Each part has its own seed for dropout, and every
        loss is a plain mean. The weights therefore do not depend on how a batch is divided.

        Args:
            batch: Training slices.
            generator: Source of random numbers; the same in all processes.

        Returns:
            Loss of the batch of all processes.

        Raises:
            TrainingDivergedError: Loss or gradient is not finite; raised in all processes.
        """
        time, noise = self._sample_noise(batch, generator)
        parts = self._split_batch(len(time))
        for param_group in self.optimizer.param_groups:
            param_group["lr"] = learning_rate(self.config.training, self.step)

        losses = []
        for index, part in enumerate(parts):
            torch.manual_seed(generator.initial_seed() + self.process_group.rank * len(parts) + index)  # dropout
            with distributed.no_sync(self.wrapped, last=index == len(parts) - 1):
                loss, _ = self.wrapped(batch.select(part), time[part], noise[part])
                loss = loss * len(time[part]) / len(time)
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())

        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.training.clip)
        mean_loss = self._check_finite(losses, distributed.full_tensor(norm), batch)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

        self.step += 1
        for average in self.averages:
            average.update(self.network, self.step)
        return mean_loss

    def _sample_noise(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample times and noise for the slices of all processes; return those of this process."""
        n_slices = len(batch.target)
        n_total = n_slices * self.process_group.size
        time = self.process.sample_times(n_total, generator)
        noise = torch.randn((n_total, *batch.target.shape[1:]), generator=generator)
        share = slice(self.process_group.rank * n_slices, (self.process_group.rank + 1) * n_slices)

        return time[share], noise[share]

    def _split_batch(self, n_slices: int) -> list[slice]:
        """Divide the slices of this process into `training.accumulate` parts."""
        size = math.ceil(n_slices / self.config.training.accumulate)

        return [slice(first, first + size) for first in range(0, n_slices, size)]

    def _check_finite(self, losses: list[Tensor], norm: Tensor, batch: Batch) -> float:
        """Sum the losses of the parts, and return the mean over the processes.

        Raises:
            TrainingDivergedError: The mean or the norm of the gradient is not finite.
        """
        own_loss = torch.stack(losses).sum().item()
        mean_loss = self.process_group.all_reduce_mean(own_loss)
        is_loss_finite = math.isfinite(mean_loss)
        # The scaler of fp16 skips a step whose gradient is not finite.
        if is_loss_finite and (self.scaler.is_enabled() or math.isfinite(norm.item())):
            return mean_loss

        self.optimizer.zero_grad(set_to_none=True)
        problem = f"gradient norm is {norm.item()}" if is_loss_finite else f"loss is {mean_loss}"
        bad_cases = batch.case_names if is_loss_finite or not math.isfinite(own_loss) else ()
        raise TrainingDivergedError(
            f"the {problem} at step {self.step}; train in another folder (-o) with a lower training.lr or with "
            "training.precision=fp32, or continue from training.init_from=RUN/best",
            bad_cases,
        )

    def fit_metadata(self, data: TrainingData) -> None:
        """Fit what goes with the weights on the training patients: detector, style retriever, training-set index.

        The average style becomes a buffer of the network, if the network is conditioned on style.

        Args:
            data: The training patients.
        """
        features = {patient.name: patient.features for patient in data.training}
        nonempty_features = {name: groups for name, groups in features.items() if groups}
        style_stats = data.style_stats

        updates: dict[str, object] = {}
        if detector := ood.fit_ood_detector(nonempty_features):
            updates["ood_detector"] = detector
        if style_stats is not None and style_stats.retriever is not None:
            updates["style_retriever"] = style_stats.retriever
        elif index := membership.fit_training_index(list(features.values())):
            updates["training_index"] = index
        self.metadata = self.metadata.model_copy(update=updates)

        if style_stats is not None:
            code = torch.from_numpy(style_stats.average.weights).float()
            for weights in (self.network.state_dict(), *(average.weights for average in self.averages)):
                weights["conditioner.average_style"].copy_(code)

    def averaged_network(self, index: int = 0) -> Network:
        """Build a network with averaged weights; all processes must call it.

        Args:
            index: Of the decay in `training.ema`.

        Returns:
            The network in evaluation mode.
        """
        network = self.config.build_network().to(self.device).eval()
        network.load_state_dict(self.full_average(index))

        return network

    def full_average(self, index: int = 0) -> dict[str, Tensor]:
        """Gather averaged weights from all processes, one tensor at a time; all processes must call it.

        Args:
            index: Of the decay in `training.ema`.

        Returns:
            Weights by name, on the CPU.
        """
        weights = self.averages[index].weights

        return {name: distributed.full_tensor(tensor).cpu() for name, tensor in weights.items()}


def learning_rate(settings: TrainingConfig, step: int) -> float:
    """Compute the learning rate: linear warm-up, then a cosine down to `training.final_lr`.

    Args:
        settings: The `training` block of a config.
        step: Number of the step, from 0.

    Returns:
        The learning rate.
    """
    warmup = min(1.0, (step + 1) / max(1, settings.warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    final_fraction = FINAL_LR_FRACTION if settings.final_lr is None else settings.final_lr / settings.lr

    return settings.lr * warmup * (final_fraction + (1 - final_fraction) * cosine)
