"""What a step changes: the network, its averages, the optimiser. The step itself is `Trainer.train_step`."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dsdiff.conditioning.network import Network
from dsdiff.config.run import RunConfig, TrainingConfig
from dsdiff.data.batch_sampling import Batch
from dsdiff.data.dataset import Cohort
from dsdiff.errors import ConfigError, DsdiffError
from dsdiff.qc import membership, ood
from dsdiff.system import distributed
from dsdiff.system.distributed import World
from dsdiff.training import weight_transfer
from dsdiff.training.ema import EMA
from dsdiff.training.loss_module import Objective

KNOWLEDGE = ("familiar", "nearest", "known", "ancestors")  # see the files of `data` by these names


class Diverged(DsdiffError):
    """A loss or a gradient that is not finite; the weights are as they were before. cases: of this process' slices."""

    def __init__(self, message: str, cases: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.cases = tuple(cases)


class Trainer:
    """Network, averages, optimiser and scaler of one run: what a step changes and a resume restores."""

    def __init__(self, config: RunConfig, where: torch.device | World, begun: bool = False) -> None:
        """begun: what it begins with is put in by whoever asks, as by a resume: `training.init_from` is not read."""
        torch.manual_seed(config.seed)
        settings = config.training
        self.config, self.world = config, where if isinstance(where, World) else World(where)
        self.device, self.step = self.world.device, 0
        self.knowledge: dict[str, str] = {}  # what goes with the weights: the parts named by KNOWLEDGE, as JSON
        self.came_from: dict[str, str] = {}  # see `loader.fingerprints`
        self.network = config.build_network()
        if settings.init_from is not None and not begun:
            self.knowledge["ancestors"] = weight_transfer.begin(self.network, config, settings.init_from)
        self._place()
        self.objective = Objective(config, self.network)
        self.process = self.objective.process
        self.wrapped = distributed.wrap(self.objective, settings.strategy, self.world)
        self.averages = [EMA(self.network, decay) for decay in settings.ema]
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")

    def _place(self) -> None:
        """On its device, in the layout in which its convolutions are fastest (on a CPU it is of no use, and FSDP shards
        no other than the plain one), compiled."""
        on_cuda = self.device.type == "cuda"
        if self.config.training.compile and not on_cuda:
            raise ConfigError(
                f"training.compile is for CUDA; this is {self.device.type}, where it costs more than it gains"
            )
        self.network.to(self.device)
        if on_cuda and self.config.training.strategy != "fsdp":
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.config.training.compile:
            self.network.backbone.compile()

    def train_step(self, batch: Batch, generator: torch.Generator) -> float:
        """One optimiser step on this process' share of a batch, in `accumulate` parts; returns the whole batch's loss.

        Times and noise are drawn for the whole batch, dropout is seeded part by part, and every loss is a plain mean,
        so that weights do not depend on how a batch is divided among processes and parts.
        Raises `Diverged`, in all processes, where the loss or its gradient is not finite.
        """
        time, noise, parts = self._drawn(batch, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.training, self.step)
        found = []
        for number, part in enumerate(parts):
            torch.manual_seed(generator.initial_seed() + self.world.rank * len(parts) + number)  # dropout
            with distributed.accumulating(self.wrapped, last=number == len(parts) - 1):
                loss, _ = self.wrapped(batch.part(part), time[part], noise[part])
                loss = loss * len(time[part]) / len(time)
                self.scaler.scale(loss).backward()
            found.append(loss.detach())
        self.scaler.unscale_(self.optimizer)
        norm = distributed.whole(nn.utils.clip_grad_norm_(self.network.parameters(), self.config.training.clip))
        mean = self._finite(found, norm, batch)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        for average in self.averages:
            average.update(self.network, self.step)
        return mean

    def _drawn(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, list[slice]]:
        """Times and noise of this process' slices, and which of the slices are in which part."""
        n = len(batch.target)
        time = self.process.draw_times(n * self.world.size, generator)
        noise = torch.randn((n * self.world.size, *batch.target.shape[1:]), generator=generator)
        mine = slice(self.world.rank * n, (self.world.rank + 1) * n)
        size = math.ceil(n / self.config.training.accumulate)
        return time[mine], noise[mine], [slice(first, first + size) for first in range(0, n, size)]

    def _finite(self, losses: list[Tensor], norm: Tensor, batch: Batch) -> float:
        """The mean over the processes of what the parts' losses add up to.

        Raises `Diverged` where it or the gradient's norm is not finite.
        """
        mine = torch.stack(losses).sum().item()
        mean = self.world.mean(mine)
        if math.isfinite(mean) and (self.scaler.is_enabled() or math.isfinite(norm.item())):  # the scaler skips such
            return mean
        self.optimizer.zero_grad(set_to_none=True)
        what = f"loss is {mean}" if not math.isfinite(mean) else f"gradient's norm is {norm.item()}"
        guilty = batch.cases if math.isfinite(mean) or not math.isfinite(mine) else ()
        raise Diverged(
            f"the {what} at step {self.step}; into another folder (-o), lower training.lr or set "
            "training.precision=fp32, or go on with training.init_from=RUN/best",
            guilty,
        )

    def learn(self, patients: Cohort) -> None:
        """Keep what the training patients are like, and if the network is told styles those of their targets: the
        average one goes with the weights.
        """
        measured = {patient.name: patient.measured for patient in patients.training}
        if like := ood.learn({name: one for name, one in measured.items() if one}):
            self.knowledge["familiar"] = like.dump()
        if patients.styles is not None and patients.styles.nearest is not None:
            self.knowledge["nearest"] = patients.styles.nearest.dump()
        elif known := membership.fit_index(list(measured.values())):
            self.knowledge["known"] = known.dump()
        if patients.styles is not None:
            code = torch.from_numpy(patients.styles.average).float()
            for weights in (self.network.state_dict(), *(average.weights for average in self.averages)):
                weights["conditioner.average_style"].copy_(code)

    def averaged(self, number: int = 0) -> Network:
        """A network with averaged weights, those of one decay, for validation; every process must ask."""
        network = self.config.build_network().to(self.device).eval()
        network.load_state_dict(self.whole_average(number))
        return network

    def whole_average(self, number: int = 0) -> dict[str, Tensor]:
        """The averaged weights of one decay on the CPU, put together from all processes one after the other."""
        return {name: distributed.whole(value).cpu() for name, value in self.averages[number].weights.items()}


def learning_rate(settings: TrainingConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the rate."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup))
    return settings.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / settings.steps)))
