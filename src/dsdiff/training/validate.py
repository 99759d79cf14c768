"""Validation of averaged weights on held-out patients: the loss on fixed slices, and scores of full volumes.

The processes divide the work, and all get the same result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dsdiff.conditioning.network import Network
from dsdiff.data.batch_sampling import sample_batch
from dsdiff.data.dataset import BRAIN, ENHANCING, LESION, TrainingPatient
from dsdiff.evaluation import brain_scores
from dsdiff.evaluation.regions import Regions
from dsdiff.inference.model import Model
from dsdiff.inference.parallel import CancelledError
from dsdiff.inference.pipeline import Pipeline
from dsdiff.preprocessing.normalize import PreprocessedCase
from dsdiff.reporting.sample_grid import save_sample_grid
from dsdiff.style.regression import StyleCode
from dsdiff.system.graceful_stop import GracefulStop
from dsdiff.training.loss_module import LossModule
from dsdiff.training.trainer import Trainer

N_BATCHES = 6  # of fixed slices
BATCH_SIZE = 8  # slices in each
SPACING = (1.0, 1.0, 1.0)  # mm; assumed, because slices of training patients carry no voxel size
Scores = dict[str, float]


@dataclass(frozen=True)
class Validation:
    """Result of a validation.

    Attributes:
        loss: On the fixed slices, of the best average.
        average_index: The average with the lowest loss; an index of `training.ema`.
        scores: Mean scores of full volumes by name; empty if none was synthesized.
    """

    loss: float
    average_index: int
    scores: Scores


@torch.no_grad()
def validate(
    trainer: Trainer, patients: Sequence[TrainingPatient], picture: Path, stop: GracefulStop
) -> Validation | None:
    """Compute the loss of every average, and score full volumes of the best one.

    Args:
        trainer: Trainer of the run; all processes must call this.
        patients: Held-out patients. The first `training.validate_volumes` of them are synthesized.
        picture: PNG that shows the first slices.
        stop: Asked between patients and batches.

    Returns:
        The result; None if a process was asked to stop.
    """
    process_group = trainer.process_group
    losses = []
    for index in range(len(trainer.averages)):
        network = trainer.averaged_network(index)
        own_losses = _losses_of_fixed_slices(trainer, network, patients, picture if index == 0 else None, stop)
        if process_group.all_reduce_max(stop.signal_number):
            return None
        loss_by_batch = _merge(process_group.all_gather(own_losses))
        losses.append(sum(loss_by_batch[number] for number in range(N_BATCHES)) / N_BATCHES)
    best_index = losses.index(min(losses))

    scored_patients = patients[: trainer.config.training.validate_volumes]
    own_scores = {}
    if scored_patients:
        own_patients = scored_patients[process_group.rank :: process_group.size]
        own_scores = _score_volumes(trainer, best_index, own_patients, stop)
    if process_group.all_reduce_max(stop.signal_number):
        return None
    scores_by_patient = _merge(process_group.all_gather(own_scores))
    mean_scores = _mean_scores([scores_by_patient[patient.name] for patient in scored_patients])

    return Validation(losses[best_index], best_index, mean_scores)


def _losses_of_fixed_slices(
    trainer: Trainer,
    network: Network,
    patients: Sequence[TrainingPatient],
    picture: Path | None,
    stop: GracefulStop,
) -> dict[int, float]:
    """Loss of this process' share of the fixed batches, by number.

    Every slice has all contrasts and its patient's own style. A process that starts from the source image is validated
    in one step, at time 1. One that starts from noise is validated at fixed random times, since a single step from
    noise would tell little.
    """
    data, process = trainer.config.data, trainer.process
    fixed_data = data.model_copy(update={"style_dropout": 0.0, "contrast_dropout": 0.0})
    loss_module = LossModule(trainer.config, network)
    generator = torch.Generator().manual_seed(trainer.config.seed)
    rng = np.random.default_rng(trainer.config.seed)

    losses = {}
    for number in range(N_BATCHES):  # every process samples every batch, so that random numbers agree
        plane = data.planes[number % len(data.planes)]
        batch = sample_batch(patients, BATCH_SIZE, fixed_data, rng, plane)
        time = process.sample_times(BATCH_SIZE, generator) if process.from_noise else torch.ones(BATCH_SIZE)
        noise = torch.randn(batch.target.shape, generator=generator)
        is_own = number % trainer.process_group.size == trainer.process_group.rank
        if not is_own or stop.signal_number:
            continue

        loss, x_0 = loss_module(batch, time, noise)
        losses[number] = loss.item()
        if number == 0 and picture is not None:
            save_sample_grid(batch, x_0.float().cpu(), data.contrasts, picture, plane)

    return losses


def _score_volumes(
    trainer: Trainer, average_index: int, patients: Sequence[TrainingPatient], stop: GracefulStop
) -> dict[str, Scores]:
    """Scores of full volumes, synthesized by one of the averages, by patient."""
    config = trainer.config
    model = Model(
        name="",
        hash="",
        config=config,
        network=trainer.averaged_network(average_index),
        process=trainer.process,
        sampler=config.build_sampler(),
        device=trainer.device,
        metadata=trainer.metadata,
    )

    scores = {}
    for patient in patients:
        if stop.signal_number:
            break
        style_code = patient.style_codes.expected if patient.style_codes else None
        scores[patient.name] = validate_patient(model, patient, style_code, stop)
    return scores


def validate_patient(
    model: Model, patient: TrainingPatient, style_code: StyleCode | None = None, stop: GracefulStop | None = None
) -> Scores:
    """Synthesize the full volume of a patient, as `dsdiff synth` does, and score it in the brain's bounding box.

    Args:
        model: Model to score.
        patient: A patient with target.
        style_code: Style to synthesize in; None for the average style.
        stop: Asked during the synthesis.

    Returns:
        Scores by name (see `brain_scores.score_brain`). Empty if it was asked to stop. NaN if the volume is constant,
        as that of an untrained network.
    """
    stacked, region_map = patient.slices.load_all()
    volumes = stacked.transpose(0, 2, 3, 1).astype(np.float32)  # contrast x y z
    region_map = region_map.transpose(1, 2, 0)  # x y z
    sources = dict(zip(model.contrasts, volumes[:-1], strict=True))
    case = PreprocessedCase(sources, region_map > 0, SPACING)

    def cancel_if_stopped(fraction: float) -> None:
        if stop is not None and stop.signal_number:
            raise CancelledError

    try:
        t1ce = Pipeline(model).predict_volume(case, style_code, progress=cancel_if_stopped).mean
    except CancelledError:
        return {}

    regions = Regions(region_map >= BRAIN, region_map >= LESION, region_map == ENHANCING)
    try:
        return brain_scores.score_brain(t1ce, volumes[-1], sources[model.config.data.source_contrast], regions)
    except ValueError:  # a constant volume
        return dict.fromkeys(brain_scores.SCORE_DESCRIPTIONS, float("nan"))


def _merge(dictionaries: Sequence[dict]) -> dict:
    """Merge what the processes computed."""
    merged: dict = {}
    for dictionary in dictionaries:
        merged |= dictionary
    return merged


def _mean_scores(scores: Sequence[Scores]) -> Scores:
    """Mean of each score over the patients that have it; a score that no patient has is left out."""
    means = {}
    for name in scores[0] if scores else ():
        values = [patient_scores[name] for patient_scores in scores if np.isfinite(patient_scores[name])]
        if values:
            means[name] = round(float(np.mean(values)), 4)
    return means
