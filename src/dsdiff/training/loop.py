"""One linear training loop. The same command resumes it: every batch follows from the seed and the step alone."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from dsdiff import checkpoint, device
from dsdiff import config as configs
from dsdiff.conditioning import disentangle
from dsdiff.conditioning.network import Network, named
from dsdiff.config import RunConfig, TrainingConfig
from dsdiff.data import batch as batches
from dsdiff.data import loader, prepare, splits
from dsdiff.data.batch import Batch
from dsdiff.data.cohort import Cohort, Patient
from dsdiff.data.loader import Batches, prefetched
from dsdiff.errors import ConfigError, DsdiffError, OutputError
from dsdiff.progress import bars
from dsdiff.training import losses
from dsdiff.training.ema import EMA
from dsdiff.training.pictures import save_samples
from dsdiff.types import Condition, Prediction

STATE, LOG = "state.safetensors", "log.jsonl"


class Trainer:
    """Network, average, optimiser and process of one run: what a step changes and a resume restores."""

    def __init__(self, config: RunConfig, where: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, where
        self.process = config.build_process()
        self.network = config.build_network().to(where)
        self.ema = EMA(self.network, config.training.ema)
        settings = config.training
        self.optimizer = torch.optim.AdamW(self.network.parameters(), settings.lr, weight_decay=settings.weight_decay)
        self.step = 0

    def loss(self, network: Network, batch: Batch, time: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the predicted x_0 (robust z-scores) of a batch noised to `time`."""
        sources = batch.sources.to(self.device)
        target, region = batch.target.to(self.device), batch.region.to(self.device)
        data, process = self.config.data, self.process
        x_0, noise = target / process.scale, noise.to(self.device)
        start = sources[:, data.contrasts.index(data.start), data.slab // 2, None]  # b 1 h w
        with device.autocast(self.device, self.config.training.precision):
            styled = None if batch.styled is None else batch.styled.to(self.device)
            cond = network.condition(sources, batch.present.to(self.device), styled)
            x_t = process.q_sample(x_0, start, time, noise)
            prediction = network(x_t, process.timestep(time).to(self.device), cond)
            apart = self._disentangled(network, cond, prediction)
        predicted = process.predicted(prediction.value.float(), start)
        wanted, made = process.target(x_0, start, time, noise), process.x_0(predicted, x_t, time) * process.scale
        return losses.total(self.config.loss, predicted, wanted, made, target, start, region) + apart, made

    def _disentangled(self, network: Network, cond: Condition, prediction: Prediction) -> Tensor | float:
        """The losses on features: of training alone, so that validation compares runs with and without them."""
        terms = self.config.conditioning.disentangle
        if not terms or not network.training:
            return 0.0
        return disentangle.total(terms, cond, prediction, network.conditioner.decoder)

    def train_step(self, batch: Batch, generator: torch.Generator) -> float:
        """One optimiser step on a batch, in `accumulate` parts whose gradients add up to the whole batch's."""
        settings = self.config.training
        time = self.process.draw_times(len(batch.target), generator)
        noise = torch.randn(batch.target.shape, generator=generator)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, self.step)
        total = 0.0
        for part in torch.arange(len(time)).chunk(settings.accumulate):
            loss, _ = self.loss(self.network, batch.part(part), time[part], noise[part])
            (loss * len(part) / len(time)).backward()
            total += loss.item() * len(part) / len(time)
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.ema.update(self.network, self.step)
        return total

    def save(self, path: Path) -> None:
        """Write everything a resume needs."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.weights.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        checkpoint.save_state(path, tensors, {"step": self.step})

    def resume(self, path: Path) -> None:
        """Take up a state that `save` wrote."""
        tensors, facts = checkpoint.read_state(path)
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "ema": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, key = name.split(".", 1)
            parts[part][key] = tensor
        self.network.load_state_dict(named(parts["network"]))
        self.ema.weights = {k: v.to(self.device) for k, v in named(parts["ema"]).items()}
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in parts["optimizer"].items():
            index, moment = key.split(".")
            state.setdefault(int(index), {})[moment] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.step = int(facts["step"])

    def learn_style(self, patients: Sequence[Patient]) -> None:
        """Keep the average style of the training patients with the weights, where the network is told one."""
        if patients[0].styles is not None:
            average = torch.from_numpy(patients[0].styles[1]).float()
            for weights in (self.network.state_dict(), self.ema.weights):
                weights["conditioner.average_style"].copy_(average)

    def averaged(self) -> Network:
        """A network with the averaged weights, for validation."""
        network = self.config.build_network().to(self.device).eval()
        network.load_state_dict(self.ema.weights)
        return network


def learning_rate(settings: TrainingConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the rate."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup))
    return settings.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / settings.steps)))


def train(config: RunConfig, run: Path, where: torch.device, console: Console) -> Path:
    """Train `config` in the folder `run`, from where it stopped; returns the model folder it ends with.

    Raises `ConfigError` where the folder belongs to another config, and what reading the data raises.
    """
    trainer = Trainer(config, where)
    claim(run, config)
    if (run / STATE).is_file():
        trainer.resume(run / STATE)
        console.print(f"{run}: resumed at step {trainer.step} of {config.training.steps}")
    if trainer.step < config.training.steps:
        patients = loader.gather(config.data, config.conditioning.style != "none", console)
        trainer.learn_style(patients.training)
        _steps(trainer, run, patients, console)
    model = run / "model"
    card, facts = _card(config, trainer)
    checkpoint.save(model, trainer.ema.weights, configs.dump(configs.portable(config)), card, facts)
    return model


def draws(config: RunConfig, patients: Cohort, rank: int = 0, world: int = 1) -> Batches:
    """What the steps of a run train on: of each, the share of one process."""
    size = config.training.batch_size * config.training.accumulate
    return Batches(config.data, config.seed, size, patients.training, patients.phantoms, rank, world)


def _steps(trainer: Trainer, run: Path, patients: Cohort, console: Console) -> None:
    settings, validation = trainer.config.training, patients.held_out
    _forget_after(run / LOG, trainer.step)
    with bars(console, count=True) as progress, (run / LOG).open("a") as log:
        task = progress.add_task("training", total=settings.steps, completed=trainer.step)
        if validation and trainer.step == 0:  # what the start alone, untrained, is worth
            before = round(validate(trainer, validation, run / "samples"), 5)
            log.write(json.dumps({"step": 0, "validation": before}) + "\n")
        since, running = time.perf_counter(), 0.0
        for batch in prefetched(draws(trainer.config, patients), trainer.step, settings.steps):
            rng = np.random.default_rng([trainer.config.seed, trainer.step])
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            torch.manual_seed(generator.initial_seed())  # dropout
            rate = learning_rate(settings, trainer.step)
            loss = trainer.train_step(batch, generator)
            if not math.isfinite(loss):
                raise DsdiffError(
                    f"the loss is {loss} at step {trainer.step}; lower training.lr or set training.precision=fp32"
                )
            running = loss if running == 0 else 0.98 * running + 0.02 * loss
            seconds = round(time.perf_counter() - since, 2)
            facts = {"step": trainer.step, "loss": round(loss, 5), "lr": rate, "seconds": seconds}
            last = trainer.step == settings.steps
            if validation and (trainer.step % settings.validate_every == 0 or last):
                facts["validation"] = round(validate(trainer, validation, run / "samples"), 5)
                console.print(f"step {trainer.step}: loss {running:.4f}, validation {facts['validation']:.4f}")
            log.write(json.dumps(facts) + "\n")
            if trainer.step % settings.save_every == 0 or last:
                log.flush()
                trainer.save(run / STATE)
            progress.update(task, completed=trainer.step, description=f"training (loss {running:.4f})")


@torch.inference_mode()
def validate(trainer: Trainer, patients: Sequence[Patient], folder: Path, slices: int = 48) -> float:
    """Loss of the averaged network on fixed slices of patients in their own style; the first few go into a picture.

    From the start image one step is judged. From noise that would tell little: fixed times and noises are taken.
    """
    data, network, process = trainer.config.data, trainer.averaged(), trainer.process
    generator = torch.Generator().manual_seed(trainer.config.seed)
    rng, total = np.random.default_rng(trainer.config.seed), 0.0
    for first in range(0, slices, 8):
        batch = batches.draw(patients, 8, data.crop, data.slab, data.lesion_share, rng)
        time = process.draw_times(8, generator) if process.from_noise else torch.ones(8)
        loss, x_0 = trainer.loss(network, batch, time, torch.randn(batch.target.shape, generator=generator))
        total += loss.item() * 8 / slices
        if first == 0:
            save_samples(batch, x_0.float().cpu(), folder / f"step-{trainer.step:06d}.png")
    return total


def claim(run: Path, config: RunConfig) -> None:
    """Make the run folder, or check that it is this config's. Raises `ConfigError` with the first lines that differ."""
    written, resolved = run / "config.yaml", configs.dump(config)
    there = configs.dump(configs.load(written)) if written.is_file() else resolved
    if there != resolved:
        old, new = set(there.splitlines()), set(resolved.splitlines())
        raise ConfigError(
            f"{run} belongs to another config; there: {'; '.join(sorted(old - new)[:5])} | here: "
            f"{'; '.join(sorted(new - old)[:5])}. Give another folder with -o"
        )
    try:
        run.mkdir(parents=True, exist_ok=True)
        written.write_text(resolved)
    except OSError as error:
        raise OutputError(f"{run} cannot be written: {error.strerror or error}") from error


def _forget_after(log: Path, step: int) -> None:
    """Drop what a stopped run logged after the state it is resumed from."""
    if log.is_file():
        kept = [line for line in log.read_text().splitlines() if line and json.loads(line)["step"] <= step]
        log.write_text("".join(line + "\n" for line in kept))


def _card(config: RunConfig, trainer: Trainer) -> tuple[str, checkpoint.Facts]:
    """The model card of a run nobody has evaluated yet, and the facts that go with its weights."""
    n, data = checkpoint.parameters(trainer.ema.weights), config.data
    unseen, facts = "No fold was held out.", checkpoint.Facts(steps=trainer.step, **prepare.manifest(data))
    if data.split is not None and data.fold is not None:
        split = splits.read(data.split)
        facts |= {"split": split.hash, "fold": data.fold}
        unseen = f"Fold {data.fold} of split {split.hash} was held out: {', '.join(split.held_out(data.fold))}."
    card = (
        f"# A dsdiff model\n\n{n / 1e6:.2f} M parameters, {trainer.step} steps of {config.training.batch_size} slices. "
        f"{unseen} Not evaluated yet. Research use, not for diagnosis.\n"
    )
    return card, facts
