"""How good the averaged weights are: the loss on fixed slices, and scores of whole volumes, of patients held out.

The processes share the work out among themselves, and all get the same answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dsdiff.conditioning.network import Network
from dsdiff.data import batch_sampling as batches
from dsdiff.data.dataset import BRAIN, ENHANCING, LESION, Patient
from dsdiff.evaluation import brain_scores
from dsdiff.evaluation.regions import Regions
from dsdiff.inference.model import Model
from dsdiff.inference.options import plan
from dsdiff.inference.parallel import StoppedError
from dsdiff.inference.volume import assemble
from dsdiff.preprocessing.normalize import Prepared
from dsdiff.reporting.sample_grid import save_samples
from dsdiff.style.regression import Code
from dsdiff.system.graceful_stop import Stop
from dsdiff.training.loss_module import Objective
from dsdiff.training.trainer import Trainer
from dsdiff.volume import Volume

PARTS, SLICES = 6, 8  # of fixed slices: so many batches of so many


@dataclass(frozen=True)
class Validation:
    """loss: on the fixed slices. ema: number of the average that has it. volumes: mean score by name, if asked for."""

    loss: float
    ema: int
    volumes: dict[str, float]


@torch.no_grad()
def validate(trainer: Trainer, patients: Sequence[Patient], picture: Path, stop: Stop) -> Validation | None:
    """Validate every average on patients in their own style, and the best one on whole volumes; the first slices go
    into a picture. None where a process was asked to stop meanwhile.
    """
    losses = []
    for number in range(len(trainer.averages)):
        mine = _losses(trainer, trainer.averaged(number), patients, None if number else picture, stop)
        if trainer.world.largest(stop.asked):
            return None
        found = {part: loss for some in trainer.world.gather(mine) for part, loss in some.items()}
        losses.append(sum(found[part] for part in range(PARTS)) / PARTS)
    best = losses.index(min(losses))
    chosen, world = patients[: trainer.config.training.validate_volumes], trainer.world
    scored = _volumes(trainer, best, chosen[world.rank :: world.size], stop) if chosen else {}
    if trainer.world.largest(stop.asked):
        return None
    everyones = {name: score for some in world.gather(scored) for name, score in some.items()}
    return Validation(losses[best], best, _means([everyones[patient.name] for patient in chosen]))


def _losses(
    trainer: Trainer, network: Network, patients: Sequence[Patient], picture: Path | None, stop: Stop
) -> dict[int, float]:
    """The loss of this process' share of the fixed slices, part by part.

    From the start image one step is judged. From noise that would tell little: fixed times and noises are taken.
    """
    data, process, objective = trainer.config.data, trainer.process, Objective(trainer.config, network)
    generator = torch.Generator().manual_seed(trainer.config.seed)
    rng, found = np.random.default_rng(trainer.config.seed), {}
    for part in range(PARTS):
        plane = data.planes[part % len(data.planes)]
        batch = batches.draw(patients, SLICES, data.crop, data.context_slices, data.lesion_fraction, rng, plane=plane)
        time = process.draw_times(SLICES, generator) if process.from_noise else torch.ones(SLICES)
        noise = torch.randn(batch.target.shape, generator=generator)
        if part % trainer.world.size == trainer.world.rank and not stop.asked:
            loss, x_0 = objective(batch, time, noise)
            found[part] = loss.item()
            if part == 0 and picture is not None:
                save_samples(batch, x_0.float().cpu(), data.contrasts, picture, plane)
    return found


def _volumes(trainer: Trainer, number: int, patients: Sequence[Patient], stop: Stop) -> dict[str, dict[str, float]]:
    """Scores of patients synthesised whole with one of the averages, patient by patient."""
    config = trainer.config
    model = Model("", "", config, trainer.averaged(number), trainer.process, config.build_sampler(), trainer.device)
    return {
        one.name: score(model, one, one.styles[1] if one.styles else None, stop) for one in patients if not stop.asked
    }


def score(model: Model, patient: Patient, code: Code | None = None, stop: Stop | None = None) -> dict[str, float]:
    """Scores of one patient (see `evaluation.scores`), in the brain's bounding box, synthesised whole in the style of a
    code (else the average one, where the model is told one); none where it was asked to stop meanwhile, NaN where the
    image is none that can be scored.
    """
    stacked, mask = patient.slices.whole()
    images, region = stacked.transpose(0, 2, 3, 1).astype(np.float32), mask.transpose(1, 2, 0)
    named = dict(zip(model.contrasts, images[:-1], strict=True))
    prepared = Prepared(named, region > 0, {}, (1.0, 1.0, 1.0), (0, 0, 0), Volume(images[0], np.eye(4)), ())

    def go_on(share: float) -> None:
        if stop and stop.asked:
            raise StoppedError

    try:
        made = assemble(prepared, model, plan(model), code, progress=go_on).mean
    except StoppedError:
        return {}
    regions = Regions(region >= BRAIN, region >= LESION, region == ENHANCING)
    try:
        return brain_scores.score(made, images[-1], named[model.config.data.source_contrast], regions)
    except ValueError:  # a constant image, as of a network that has learnt nothing yet
        return dict.fromkeys(brain_scores.SCORES, float("nan"))


def _means(scored: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of every score over the patients that have it; a score that none has is left out."""
    found = {name: [one[name] for one in scored if np.isfinite(one[name])] for name in (scored[0] if scored else {})}
    return {name: round(float(np.mean(values)), 4) for name, values in found.items() if values}
