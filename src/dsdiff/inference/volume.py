"""A full volume from its slices: the slices of each plane are computed and put back, and the planes are averaged.

Each plane shows what the others cannot: a vessel that crosses the slices is round in one of the three. The errors of a
network that was trained on all three differ between planes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from dsdiff.inference import parallel
from dsdiff.inference.denoise import SliceSamples, sample_slices
from dsdiff.inference.model import Model
from dsdiff.inference.options import FractionCallback, SamplingPlan, ignore_fraction
from dsdiff.preprocessing import planes, slices
from dsdiff.preprocessing.normalize import PreprocessedCase
from dsdiff.preprocessing.planes import Plane
from dsdiff.preprocessing.slices import Box, SliceBatch
from dsdiff.style.regression import StyleCode
from dsdiff.volume import Slice2D, Volume3D


@dataclass(frozen=True)
class SynthesizedVolume:
    """A T1ce in the brain's bounding box, robust z-scores, zero outside the brain.

    Attributes:
        mean: The T1ce; of several samples their mean.
        std: Standard deviation of its error (see `SliceSamples.std`), or None.
        style_image: The case rendered in the style that conditions the network, or None.
    """

    mean: Volume3D
    std: Volume3D | None
    style_image: Volume3D | None


def planes_to_average(model: Model, plan: SamplingPlan) -> tuple[Plane, ...]:
    """Choose the planes whose outputs are averaged.

    Args:
        model: The model.
        plan: Sampling settings.

    Returns:
        The planes that the model was trained on. If sampling is stochastic, only the first: the mean of samples from
        several planes is no sample.
    """
    trained_planes = model.config.data.planes
    return trained_planes[:1] if model.process.is_stochastic(plan.steps) else trained_planes


def assemble_volume(
    case: PreprocessedCase,
    model: Model,
    plan: SamplingPlan,
    style_code: StyleCode | None = None,
    *,
    memory_gb: float | None = None,
    progress: FractionCallback = ignore_fraction,
) -> SynthesizedVolume:
    """Synthesize every slice of a case and assemble them to a volume.

    Args:
        case: The case.
        model: The model.
        plan: Sampling settings.
        style_code: Style of the T1ce; None for the average of the training patients, if the model has one.
        memory_gb: Limit of memory in GB, see `SynthesisOptions`.
        progress: Called with the fraction of slices that are done.

    Returns:
        The T1ce, its uncertainty and the style image.

    Raises:
        ConfigError: If `memory_gb` does not suffice for one worker.
    """
    cases_by_plane = {plane: _turn_case(case, plane) for plane in planes_to_average(model, plan)}
    n_planes = len(cases_by_plane)
    n_slices = sum(int(turned.brain.any((0, 1)).sum()) for turned in cases_by_plane.values())

    mean = np.zeros(case.brain.shape, np.float32)
    has_std = plan.samples > 1 or model.process.predict_error
    std = np.zeros_like(mean) if has_std else None
    style_image = None if style_code is None else np.zeros_like(mean)

    def sample_batch(item: tuple[Plane, SliceBatch]) -> tuple[Plane, tuple[Box, ...], SliceSamples]:
        plane, batch = item
        return plane, batch.boxes, sample_slices(model, batch, plan, style_code)

    budget = None if memory_gb is None else parallel.MemoryBudget(memory_gb, model.device)
    batches = _batches_of_planes(cases_by_plane, model)
    n_done = 0
    for plane, boxes, samples in parallel.ordered_map(sample_batch, batches, model.engine.workers, budget):
        _add_slices(mean, samples.mean, boxes, plane, n_planes)
        _add_slices(std, samples.std, boxes, plane, n_planes)
        _add_slices(style_image, samples.style_image, boxes, plane, n_planes)
        n_done += len(boxes)
        progress(n_done / n_slices)

    return SynthesizedVolume(mean * case.brain, std, style_image)


def _batches_of_planes(
    cases_by_plane: dict[Plane, PreprocessedCase], model: Model
) -> Iterator[tuple[Plane, SliceBatch]]:
    """Batches of all planes; the plane with the largest slice comes first, so that memory peaks early."""
    data = model.config.data

    def largest_slice(plane: Plane) -> int:
        return max(box.h * box.w for box in slices.brain_boxes(cases_by_plane[plane].brain, model.multiple))

    for plane in sorted(cases_by_plane, key=largest_slice, reverse=True):
        turned = cases_by_plane[plane]
        batch_size = model.engine.batch_size
        for batch in slices.make_batches(turned, data.contrasts, data.context_slices, model.multiple, batch_size):
            yield plane, batch


def _add_slices(
    volume: Volume3D | None, images: np.ndarray | None, boxes: tuple[Box, ...], plane: Plane, n_planes: int
) -> None:
    """Add slices of a plane (b h w) to the average over planes, in place."""
    if volume is None or images is None:
        return
    turned_volume = planes.volume_to_plane(volume, plane)
    for image, box in zip(images, boxes, strict=True):
        weighted: Slice2D = image / n_planes
        slices.add_slice(turned_volume, weighted, box)


def _turn_case(case: PreprocessedCase, plane: Plane) -> PreprocessedCase:
    """The case with the slices of a plane along the last axis."""
    images = {contrast: planes.volume_to_plane(image, plane) for contrast, image in case.images.items()}
    return replace(case, images=images, brain=planes.volume_to_plane(case.brain, plane))
