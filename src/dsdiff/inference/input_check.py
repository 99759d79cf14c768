"""Checks of a case and its sampling settings against a model: what a user should know before trusting the result."""

from dsdiff.inference.model import Model
from dsdiff.preprocessing.normalize import PreprocessedCase
from dsdiff.qc import misalignment
from dsdiff.qc.features import Features, measure_features

TRAINING_PATIENT = (
    "this patient was in the training set of the model; the result does not indicate its performance on new patients"
)


def check_input(
    case: PreprocessedCase, model: Model, features: dict[str, Features] | None = None
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Compare a case with the training patients of a model.

    Args:
        case: The network's input.
        model: The model.
        features: Features of the case; None to measure them if the model has a detector.

    Returns:
        The out-of-distribution score of each feature group, and all warnings about the input.
    """
    warnings = [*case.warnings, *misalignment.misalignment_warnings(case, model.config.data.source_contrast)]
    if features and model.trained_on(features):
        warnings.append(TRAINING_PATIENT)
    detector = model.metadata.ood_detector
    if detector is None:
        return {}, tuple(warnings)

    if features is None:
        features = measure_features(case)
    ood_scores = {group: round(score, 3) for group, score in detector.scores(features).items()}
    return ood_scores, (*warnings, *detector.warnings(features))


def uncalibrated_steps_warning(default_steps: int, steps: int) -> str:
    """Word the warning about steps that a model was not calibrated for.

    Args:
        default_steps: The steps of the calibration.
        steps: The steps of the synthesis.

    Returns:
        One sentence.
    """
    return (
        f"the model was calibrated for {_count(default_steps)}; with {_count(steps)} it may over-enhance and the "
        "uncertainty map is not calibrated"
    )


def _count(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"
