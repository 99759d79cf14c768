"""Which input drove each enhancement: every contrast is taken away in turn, and the change in the output mapped."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage

from dsdiff.conditioning import style_image as styles
from dsdiff.evaluation.enhancement import THRESHOLD as ENHANCES
from dsdiff.inference.model import Model
from dsdiff.inference.options import plan
from dsdiff.inference.pipeline import Result, complete
from dsdiff.inference.style_reference import Reference
from dsdiff.preprocessing import slices
from dsdiff.preprocessing.normalize import Prepared
from dsdiff.reporting import preview
from dsdiff.types import Condition

LEAST_ML = 0.1  # of an enhancement that is told of
MOST = 3  # enhancements told of, the one with most lesion in it first
Image = Float[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Enhancement:
    """One connected enhancement. point: where there is most of the lesion, in the brain's box.

    owed: contrast -> share of its mean that goes when the contrast is taken away; below 0 where more enhances without.
    """

    point: tuple[int, int, int]
    ml: float
    mean: float
    owed: dict[str, float]

    @property
    def driver(self) -> str:
        """The contrast to which most is owed."""
        return max(self.owed, key=lambda contrast: self.owed[contrast])


@dataclass(frozen=True)
class Explanation:
    """enhancement: T1ce minus the start, robust SD. lost: contrast -> what of it goes without. taken: contrast -> how
    it was taken away. spread: SD of the error that the network expects, else SD over samples, None without either."""

    result: Result
    enhancement: Image
    lost: dict[str, Image]
    taken: dict[str, str]
    spread: Image | None
    found: tuple[Enhancement, ...]


def explain(
    prepared: Prepared, model: Model, samples: int = 4, progress: Callable[[float], None] = lambda share: None
) -> Explanation:
    """Synthesise a case as it is and without each of its contrasts.

    Where the network does not tell the error to be expected, the spread of samples is drawn, above one.

    A contrast that the model may do without is withheld; the others are exchanged for their own mirror image, so that
    a lesion on one side loses what the contrast says of it and tissue stays tissue. The style that is told stays that
    of the whole case, so that nothing is owed to a contrast for having chosen another.
    """
    given = [contrast for contrast in model.contrasts if contrast in prepared.images]
    sampled = samples > 1 and not model.process.predict_error
    start, runs = model.config.data.source_contrast, len(given) + 1 + sampled
    result = complete(prepared, model)
    style = None if result.code is None else Reference("the whole case", result.code)
    enhancement = enhancement_of(result, start)
    lost, taken = {}, {}
    for done, contrast in enumerate(given):
        progress((1 + done) / runs)
        may_lack = contrast in model.config.data.optional
        changed = withheld(prepared, contrast) if may_lack else exchanged(prepared, contrast)
        lost[contrast] = enhancement - enhancement_of(complete(changed, model, style=style), start)
        taken[contrast] = "withheld" if may_lack else "mirrored"
    spread = complete(prepared, model, plan(model, samples=samples)).z_std if sampled else result.z_std
    progress(1.0)
    found = enhancements(enhancement, lost, preview.lesion_mass(enhancement, prepared), prepared.spacing)
    return Explanation(result, enhancement, lost, taken, spread, found)


def enhancement_of(result: Result, start: str) -> Image:
    """T1ce minus the pre-contrast image, zero outside the brain."""
    return np.where(result.prepared.brain, result.z - result.prepared.images[start], 0)


def withheld(prepared: Prepared, contrast: str) -> Prepared:
    """The case without a contrast."""
    return replace(prepared, images={name: image for name, image in prepared.images.items() if name != contrast})


def exchanged(prepared: Prepared, contrast: str) -> Prepared:
    """The case with one contrast mirrored about the middle of the brain; its median where nothing lies across."""
    mirrored = prepared.images[contrast][::-1] * prepared.brain
    return replace(prepared, images={**prepared.images, contrast: mirrored})


def enhancements(
    enhancement: Image, lost: dict[str, Image], lesion: Image, spacing: tuple[float, float, float]
) -> tuple[Enhancement, ...]:
    """The connected enhancements with most lesion in them, and what each owes to every contrast.

    lesion: see `preview.lesion_mass`.
    """
    labels, n = ndimage.label(enhancement > ENHANCES)
    ml = np.bincount(labels.ravel(), minlength=n + 1)[1:] * float(np.prod(spacing)) / 1000
    mass = ndimage.sum_labels(lesion, labels, np.arange(1, n + 1))
    order = [i for i in np.argsort(-mass) if ml[i] >= LEAST_ML][:MOST]
    found = []
    for i in order:
        inside = labels == 1 + i
        mean = float(enhancement[inside].mean())
        owed = {contrast: float(change[inside].mean() / mean) for contrast, change in lost.items()}
        x, y, z = (int(at) for at in np.unravel_index(np.where(inside, lesion, -1).argmax(), inside.shape))
        found.append(Enhancement((x, y, z), float(ml[i]), mean, owed))
    return tuple(found)


@torch.inference_mode()
def condition_at(result: Result, model: Model, z: int) -> tuple[Condition, slices.Box]:
    """What the network was told of one axial slice, and where that lies."""
    prepared = result.prepared
    (box,) = (box for box in slices.boxes(prepared.brain, model.multiple) if box.z == z)
    taken = slices.stack(prepared, model.contrasts).take(box, model.config.data.context_slices)
    sources = torch.from_numpy(taken[None]).to(model.device)
    present = torch.tensor([[contrast in prepared.images for contrast in model.contrasts]], device=model.device)
    styled = None if result.code is None else styles.image(torch.from_numpy(result.code), sources, present)
    return model.network.condition(sources, present, styled), box


def on_grid(image: Float[np.ndarray, "h w"], box: slices.Box, shape: tuple[int, ...]) -> Image:
    """One slice's map in an otherwise empty volume of one slice."""
    volume = np.zeros((*shape[:2], 1), np.float32)
    slices.add(volume, image, replace(box, z=0))
    return volume
