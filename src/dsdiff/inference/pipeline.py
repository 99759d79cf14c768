"""From a case's volumes to its T1ce: the eight hops of a tensor, all visible here.

nifti.read -> preprocess.apply -> assemble: (slices.batches -> network.condition -> sampler(denoise)) -> refinement
-> preprocess.restore -> nifti.write
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from dsdiff.errors import CaseError, InputError
from dsdiff.inference import model as models
from dsdiff.inference import style_reference as references
from dsdiff.inference.model import Model
from dsdiff.inference.options import Sampling, plan
from dsdiff.inference.style_reference import Reference
from dsdiff.inference.volume import assemble
from dsdiff.io import cases, nifti
from dsdiff.preprocessing import normalize
from dsdiff.preprocessing.normalize import Prepared
from dsdiff.qc import misalignment, ood
from dsdiff.qc.ood import Measurements
from dsdiff.style.regression import Code
from dsdiff.system import device as devices
from dsdiff.volume import Volume

LEARNT_ELSEWHERE = (
    "in other steps than the model was calibrated in: more enhancement may be drawn than there is, and the error to be "
    "expected is that of its usual steps"
)
SEEN = "one of the patients that the model was trained on: how it does here says nothing of others"


@dataclass(frozen=True)
class Result:
    """A synthetic T1ce on T1's grid and intensity scale, zero outside the brain.

    std: voxel-wise standard deviation: what the network expects of its error, for a model that was asked (see `Drawn`),
    else that of the samples, None for one sample. prepared: what the network saw.
    z: the T1ce as robust z-scores in the brain's box, on the network's axes (RAS+), for pictures and scores.
    code, styled: the style that the network was told, and the case in it, likewise; None where it was told none.
    """

    t1ce: Volume
    std: Volume | None
    prepared: Prepared = field(repr=False)
    z: Float[np.ndarray, "x y z"] = field(repr=False)
    z_std: Float[np.ndarray, "x y z"] | None = field(repr=False)
    code: Code | None = field(repr=False)
    styled: Float[np.ndarray, "x y z"] | None = field(repr=False)
    sampling: Sampling
    style: str | None  # the case whose style it has, see `Reference.says`
    unlike: dict[str, float]  # see `familiar.Familiar.scores`; empty for a model that does not know
    warnings: tuple[str, ...]  # doubts about the input, in words
    threads: int  # of the CPU


def synthesize(
    inputs: Mapping[str, np.ndarray | Path | str],
    affine: np.ndarray | None = None,
    *,
    model: Model | str | Path = models.DEFAULT,
    steps: int | None = None,
    samples: int = 1,
    seed: int = 0,
    guidance: float = 1.0,
    style: str | Path | None = None,
    device: str = "auto",
) -> Result:
    """Synthesise the T1ce of one patient.

    inputs: contrast name ("t1", "t2", "flair") -> array (x, y, z) or path of a NIfTI file.
    affine: (4, 4) voxel to mm in RAS+ world, needed for arrays (1 mm along the axes when left out).
    model: a loaded model, a shipped model's name or a model folder. steps, samples, seed, guidance: see `plan`.
    style: folder of another patient with T1ce, whose tissue contrast is taken (see `reference.read`).

    Raises `UserError` and its kinds: see `dsdiff.errors`.
    """
    loaded = model if isinstance(model, Model) else models.load(model, devices.pick(device))
    if unknown := sorted(set(inputs) - set(loaded.contrasts)):
        raise CaseError(f"contrast {unknown[0]} is not one that the model takes ({', '.join(loaded.contrasts)})")
    wanted = loaded.wanted(inputs)
    if absent := [name for name in wanted if name not in inputs]:
        raise CaseError(f"the model needs {', '.join(wanted)}; {', '.join(absent)} is missing")
    placed = np.eye(4) if affine is None else np.asarray(affine, np.float64)
    nifti.check_affine(placed, "the given array")
    volumes = {name: _volume(inputs[name], placed, name) for name in wanted}
    cases.check_grids(volumes, "given")
    told = references.read(Path(style), loaded) if style is not None else None
    return run(volumes, loaded, plan(loaded, steps=steps, samples=samples, seed=seed, guidance=guidance), style=told)


def _volume(given: Any, affine: np.ndarray, name: str) -> Volume:
    if isinstance(given, str | Path):
        return nifti.read(Path(given))
    if not isinstance(given, np.ndarray):
        raise InputError(f"{name} is a {type(given).__name__}; a NumPy array or the path of a NIfTI file is needed")
    if given.ndim != 3 or given.size == 0:
        raise InputError(f"{name} is an array of shape {given.shape}; a 3-D one is needed")
    if given.dtype.kind not in "iufb" or not np.isfinite(given).all():
        raise InputError(f"{name} ({given.dtype}) holds values that are not finite real numbers")
    return Volume(given.astype(np.float32), affine)


def run(
    volumes: Mapping[str, Volume],
    model: Model,
    sampling: Sampling | None = None,
    *,
    style: Reference | None = None,
    memory: float | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Result:
    """Synthesise from volumes that share one grid, in the style of the reference, else, where the model is told one, in
    that of the training patients most like the case, or on average.

    sampling: by default what `plan` says of the model.

    memory: a ceiling in GB, which changes how many slices are computed side by side and never the result; `ConfigError`
    where it is too low. `progress` is told the share of the work that is done.
    """
    prepared = normalize.apply(volumes, model.config.data.source_contrast)
    return complete(prepared, model, sampling, style=style, memory=memory, progress=progress)


def complete(
    prepared: Prepared,
    model: Model,
    sampling: Sampling | None = None,
    *,
    style: Reference | None = None,
    memory: float | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Result:
    """`run` from the network's axes on: contrasts that `prepared` does not hold are absent."""
    sampling = sampling or plan(model)
    data = model.config.data
    measured = ood.measure(prepared) if model.nearest or model.known or model.ancestors else None
    expected = model.nearest.code(measured) if model.nearest and measured else None
    code = style.code if style is not None else expected
    with ThreadPoolExecutor(1) as aside:
        doubts = aside.submit(doubted, prepared, model, measured)
        answer = assemble(prepared, model, sampling, code, memory=memory, progress=progress)
        unlike, said = doubts.result()
    mean, spread, styled = answer.mean, answer.std, answer.styled
    if model.refinement and styled is not None:
        mean = model.refinement(mean, styled, prepared.images[data.source_contrast], prepared.brain, prepared.spacing)
    std = None if spread is None else normalize.restore(prepared, spread, data.source_contrast, spread=True)
    t1ce = normalize.restore(prepared, mean, data.source_contrast)
    named = None if style is None else style.says
    if model.refinement and sampling.steps != plan(model).steps:
        said = (*said, LEARNT_ELSEWHERE)
    threads = torch.get_num_threads()
    return Result(t1ce, std, prepared, mean, spread, code, styled, sampling, named, unlike, said, threads)


def doubted(
    prepared: Prepared, model: Model, measured: dict[str, Measurements] | None = None
) -> tuple[dict[str, float], tuple[str, ...]]:
    """How far the case is from the training patients (1 is the limit) by group, and every doubt about it in words.

    measured: see `familiar.measure`, where that is known already.
    """
    said = (*prepared.warnings, *misalignment.doubts(prepared, model.config.data.source_contrast))
    if measured and model.saw(measured):
        said = (*said, SEEN)
    if model.familiar is None:
        return {}, said
    found = ood.measure(prepared) if measured is None else measured
    scores = {name: round(score, 3) for name, score in model.familiar.scores(found).items()}
    return scores, (*said, *model.familiar.doubts(found))
