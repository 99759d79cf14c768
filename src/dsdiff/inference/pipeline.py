"""From a case's volumes to its T1ce. Every step is visible here.

read_nifti -> normalize.preprocess -> assemble_volume: (make_batches -> network.condition -> sampler(denoiser))
-> ScaleStacking -> geometry.restore -> write_nifti
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dsdiff.errors import CaseError, InputError
from dsdiff.inference.input_check import check_input, uncalibrated_steps_warning
from dsdiff.inference.model import DEFAULT_MODEL, Model, load_model
from dsdiff.inference.options import (
    FractionCallback,
    SamplingPlan,
    SynthesisOptions,
    ignore_fraction,
    plan_sampling,
)
from dsdiff.inference.style_reference import read_style
from dsdiff.inference.volume import SynthesizedVolume, assemble_volume
from dsdiff.io import nifti
from dsdiff.io.cases import check_grids
from dsdiff.preprocessing import normalize
from dsdiff.preprocessing.geometry import Geometry
from dsdiff.preprocessing.normalize import LoadedCase, PreprocessedCase
from dsdiff.qc.features import Features, measure_features
from dsdiff.style.regression import StyleCode
from dsdiff.system.device import resolve_device
from dsdiff.volume import Volume, Volume3D


@dataclass(frozen=True)
class SynthesizedCase:
    """A synthetic T1ce on the network's axes (RAS+), in the brain's bounding box, as robust z-scores.

    Attributes:
        case: The network's input.
        z: The T1ce, zero outside the brain.
        z_std: Voxel-wise standard deviation of its error: predicted by the network, else over the samples, else None.
        style_code: Style that conditioned the network; None for the model's average or a model without styles.
        style_image: The case rendered in that style; None without a style code.
        plan: Sampling settings.
        style_label: Case whose style was chosen by the user (`StyleReference.label`), or None.
        ood_scores: Out-of-distribution score of each feature group; above 1 the case is farther from the training set
            than any training patient is from the others. Empty for a model without a detector.
        warnings: What is unusual about the input or the settings, one sentence each.
        threads: Number of CPU threads.
    """

    case: PreprocessedCase = field(repr=False)
    z: Volume3D = field(repr=False)
    z_std: Volume3D | None = field(repr=False)
    style_code: StyleCode | None = field(repr=False)
    style_image: Volume3D | None = field(repr=False)
    plan: SamplingPlan
    style_label: str | None
    ood_scores: dict[str, float]
    warnings: tuple[str, ...]
    threads: int


@dataclass(frozen=True)
class SynthesisResult(SynthesizedCase):
    """A synthesized case together with its volumes on the grid of the input files.

    Attributes:
        t1ce: The T1ce on T1's grid and intensity scale, zero outside the brain.
        std: Voxel-wise uncertainty map on the same grid and scale, or None (see `z_std`).
        geometry: Where the case lies in its files.
    """

    t1ce: Volume
    std: Volume | None
    geometry: Geometry = field(repr=False)


def synthesize(
    inputs: Mapping[str, np.ndarray | Path | str],
    affine: np.ndarray | None = None,
    *,
    model: Model | str | Path = DEFAULT_MODEL,
    steps: int | None = None,
    samples: int = 1,
    seed: int = 0,
    guidance: float = 1.0,
    style: str | Path | None = None,
    device: str = "auto",
) -> SynthesisResult:
    """Synthesize the T1ce of one patient.

    The images must be skull-stripped, co-registered and on one grid.

    Args:
        inputs: Contrast ("t1", "t2", "flair") -> array (x, y, z) or path of a NIfTI file.
        affine: (4, 4) matrix from voxel indices to mm in RAS+ world, for arrays. None means 1 mm voxels on RAS+ axes.
        model: A loaded model, the name of a shipped model, or a model folder.
        steps: Sampling steps, 1 or more; None for the model's default.
        samples: Samples that are averaged, 1 or more.
        seed: Seed of the samples' noise, 0 or more.
        guidance: Guidance scale, 0 or more; 1 is no guidance. Above 1 the model enhances more.
        style: Folder of another patient with T1ce, whose tissue contrast is taken.
        device: "auto", "cpu", "cuda" or "mps". Ignored for a loaded model.

    Returns:
        The T1ce, its uncertainty map and the warnings about the input.

    Raises:
        UserError: And its subclasses, for inputs, models and settings that do not fit; see `dsdiff.errors`.

    Example:
        >>> result = dsdiff.synthesize({"t1": "t1.nii.gz", "t2": "t2.nii.gz", "flair": "flair.nii.gz"})
        >>> result.t1ce.array.shape
        (240, 240, 155)
    """
    if not isinstance(model, Model):
        model = load_model(model, resolve_device(device))
    volumes = _read_inputs(inputs, affine, model)
    options = SynthesisOptions(
        steps=steps,
        samples=samples,
        seed=seed,
        guidance=guidance,
        style=None if style is None else read_style(Path(style), model),
    )
    return Pipeline(model, options).synthesize_volumes(volumes)


class Pipeline:
    """Synthesizes cases with one model and one set of options.

    Args:
        model: The model.
        options: The user's choices; None for the model's defaults.

    Raises:
        ConfigError: If the model cannot sample so (see `plan_sampling`).
    """

    def __init__(self, model: Model, options: SynthesisOptions | None = None) -> None:
        self.model = model
        self.options = options or SynthesisOptions()
        self.plan = plan_sampling(model, self.options)

    def synthesize_volumes(
        self, volumes: Mapping[str, Volume], progress: FractionCallback = ignore_fraction
    ) -> SynthesisResult:
        """Synthesize the T1ce of volumes.

        Args:
            volumes: Contrast -> volume, all on one grid. Contrasts that the model allows to be absent may be missing.
            progress: Called with the fraction of slices that are done.

        Returns:
            The T1ce on the grid of the volumes.

        Raises:
            InputError: If the volumes hold no brain or no plausible intensities.
            ConfigError: If the memory limit does not suffice.
        """
        loaded = normalize.preprocess(volumes, self.model.config.data.source_contrast)
        return self.synthesize_loaded(loaded, progress)

    def synthesize_loaded(self, loaded: LoadedCase, progress: FractionCallback = ignore_fraction) -> SynthesisResult:
        """Synthesize the T1ce of a loaded case and restore it to the grid of its files.

        Args:
            loaded: The case and its geometry.
            progress: Called with the fraction of slices that are done.

        Returns:
            The T1ce on the grid of the files.
        """
        synthesized = self.synthesize_preprocessed(loaded.case, progress)

        geometry, brain, contrast = loaded.geometry, loaded.case.brain, self.model.config.data.source_contrast
        t1ce = geometry.restore(synthesized.z, brain, contrast)
        std = None
        if synthesized.z_std is not None:
            std = geometry.restore_std(synthesized.z_std, brain, contrast)
        return SynthesisResult(**vars(synthesized), t1ce=t1ce, std=std, geometry=geometry)

    def synthesize_preprocessed(
        self, case: PreprocessedCase, progress: FractionCallback = ignore_fraction
    ) -> SynthesizedCase:
        """Synthesize the T1ce of a preprocessed case; contrasts that it does not hold are absent.

        Args:
            case: The network's input.
            progress: Called with the fraction of slices that are done.

        Returns:
            The T1ce as robust z-scores, with scores and warnings about the input.
        """
        features = self._measure_features(case)
        style_code = self._choose_style(features)

        with ThreadPoolExecutor(1) as executor:  # the input is checked while the network computes
            input_check = executor.submit(check_input, case, self.model, features)
            volume = self.predict_volume(case, style_code, progress)
            ood_scores, warnings = input_check.result()

        return SynthesizedCase(
            case=case,
            z=volume.mean,
            z_std=volume.std,
            style_code=style_code,
            style_image=volume.style_image,
            plan=self.plan,
            style_label=None if self.options.style is None else self.options.style.label,
            ood_scores=ood_scores,
            warnings=(*warnings, *self._calibration_warnings()),
            threads=torch.get_num_threads(),
        )

    def predict_volume(
        self,
        case: PreprocessedCase,
        style_code: StyleCode | None = None,
        progress: FractionCallback = ignore_fraction,
    ) -> SynthesizedVolume:
        """Predict the T1ce volume of a case with the model's postprocessing. Synthesis and validation both use it.

        Args:
            case: The network's input.
            style_code: Style of the T1ce; None for the model's average.
            progress: Called with the fraction of slices that are done.

        Returns:
            Robust z-scores in the brain's bounding box.
        """
        volume = assemble_volume(
            case, self.model, self.plan, style_code, memory_gb=self.options.memory_gb, progress=progress
        )
        stacking = self.model.metadata.postprocessing
        if stacking is None or volume.style_image is None:
            return volume
        source = case.images[self.model.config.data.source_contrast]
        recombined = stacking(volume.mean, volume.style_image, source, case.brain, case.spacing)
        return replace(volume, mean=recombined)

    def _measure_features(self, case: PreprocessedCase) -> dict[str, Features] | None:
        """Features of the case, if the model compares them with those of its training patients."""
        metadata = self.model.metadata
        needs_features = metadata.patient_index or metadata.lineage
        return measure_features(case) if needs_features else None

    def _choose_style(self, features: dict[str, Features] | None) -> StyleCode | None:
        """The style that the user chose, else that of the most similar training patients."""
        if self.options.style is not None:
            return self.options.style.code
        retriever = self.model.metadata.style_retriever
        if retriever is not None and features:
            return retriever.predict_style(features)
        return None

    def _calibration_warnings(self) -> list[str]:
        if self.model.metadata.postprocessing is None:
            return []
        default_steps = plan_sampling(self.model).steps
        if self.plan.steps == default_steps:
            return []
        return [uncalibrated_steps_warning(default_steps, self.plan.steps)]


def _read_inputs(
    inputs: Mapping[str, np.ndarray | Path | str], affine: np.ndarray | None, model: Model
) -> dict[str, Volume]:
    """The volumes of the contrasts that a model takes. Raises `UserError` and its subclasses if they do not fit."""
    if unknown := sorted(set(inputs) - set(model.contrasts)):
        raise CaseError(f"the model takes {', '.join(model.contrasts)}; contrast {unknown[0]} is none of them")
    contrasts = model.contrasts_to_read(inputs)
    if missing := [contrast for contrast in contrasts if contrast not in inputs]:
        raise CaseError(f"the model needs {', '.join(contrasts)}; {', '.join(missing)} is missing")

    affine = np.eye(4) if affine is None else np.asarray(affine, np.float64)
    nifti.check_affine(affine, "the given array")
    volumes = {contrast: _to_volume(inputs[contrast], affine, contrast) for contrast in contrasts}
    check_grids(volumes, "given")
    return volumes


def _to_volume(image: Any, affine: np.ndarray, contrast: str) -> Volume:
    if isinstance(image, str | Path):
        return nifti.read_nifti(Path(image))
    if not isinstance(image, np.ndarray):
        raise InputError(f"{contrast} is a {type(image).__name__}; a NumPy array or the path of a NIfTI file is needed")
    if image.ndim != 3 or image.size == 0:
        raise InputError(f"{contrast} is an array of shape {image.shape}; a 3-D array is needed")
    if image.dtype.kind not in "iufb" or not np.isfinite(image).all():
        raise InputError(f"{contrast} ({image.dtype}) holds values that are not finite real numbers")
    return Volume(image.astype(np.float32), affine)
