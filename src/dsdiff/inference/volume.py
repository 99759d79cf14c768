"""A whole volume from its slices: those of each plane computed and put back, and the planes averaged.

Slices of another plane see what the first's cannot: a vessel across slices is round in one of the three. Networks that
were trained on all three err differently in each.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from dsdiff.inference import parallel
from dsdiff.inference.denoise import Drawn, predict
from dsdiff.inference.model import Model
from dsdiff.inference.options import Sampling
from dsdiff.preprocessing import planes, slices
from dsdiff.preprocessing.normalize import Prepared
from dsdiff.preprocessing.planes import Plane
from dsdiff.preprocessing.slices import Box, SliceBatch
from dsdiff.style.regression import Code

Image = Float[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Assembled:
    """The T1ce, its standard deviation and the style that was told (see `Drawn`), robust z-scores, zero outside the
    brain; None where there is none.
    """

    mean: Image
    std: Image | None
    styled: Image | None


def planes_of(model: Model, sampling: Sampling) -> tuple[Plane, ...]:
    """The planes whose answers are averaged: the model's, but the first alone where answers are drawn by chance, since
    the mean of several draws is none.
    """
    wanted = model.config.data.planes
    return wanted[:1] if model.process.varies(sampling.steps) else wanted


def assemble(
    prepared: Prepared,
    model: Model,
    sampling: Sampling,
    code: Code | None = None,
    *,
    memory: float | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Assembled:
    """Every slice of a case, in the style of a code, else the average one where the model is told one.

    memory, progress: see `synthesize.run`.
    """
    views = {plane: _turned(prepared, plane) for plane in planes_of(model, sampling)}
    boxes = {plane: slices.boxes(view.brain, model.multiple) for plane, view in views.items()}
    total, done, n = sum(map(len, boxes.values())), 0, len(views)
    largest_first = sorted(views, key=lambda plane: -max(box.h * box.w for box in boxes[plane]))
    mean = np.zeros(prepared.brain.shape, np.float32)
    spread = np.zeros_like(mean) if sampling.samples > 1 or model.process.predict_error else None
    styled = None if code is None else np.zeros_like(mean)
    ceiling = None if memory is None else parallel.Ceiling(memory, model.device)

    def batches() -> Iterator[tuple[Plane, SliceBatch]]:
        data = model.config.data
        for plane in largest_first:
            view = views[plane]
            for batch in slices.batches(view, data.contrasts, data.context_slices, model.multiple, model.engine.slices):
                yield plane, batch

    def draw(item: tuple[Plane, SliceBatch]) -> tuple[Plane, tuple[Box, ...], Drawn]:
        plane, batch = item
        return plane, batch.boxes, predict(model, batch, sampling, code)

    for plane, held, drawn in parallel.in_order(draw, batches(), model.engine.workers, ceiling):
        for into, images in ((mean, drawn.mean), (spread, drawn.std), (styled, drawn.styled)):
            if into is not None and images is not None:
                for image, box in zip(images, held, strict=True):
                    slices.add(planes.turned(into, plane), image / n, box)
        done += len(held)
        progress(done / total)
    return Assembled(mean * prepared.brain, spread, styled)


def _turned(prepared: Prepared, plane: Plane) -> Prepared:
    images = {name: planes.turned(image, plane) for name, image in prepared.images.items()}
    return replace(prepared, images=images, brain=planes.turned(prepared.brain, plane))
