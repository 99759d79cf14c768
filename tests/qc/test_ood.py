"""Out-of-distribution detection on simulated heads."""

import numpy as np
import pytest
from scipy import ndimage

from dsdiff.preprocessing.normalize import PreprocessedCase, preprocess
from dsdiff.qc.features import measure_features
from dsdiff.qc.ood import MIN_PATIENTS, OODDetector, fit_ood_detector
from tests.qc.heads import CONTRASTS, Volumes, change_arrays, simulate_head


@pytest.fixture(scope="module")
def patients() -> list[Volumes]:
    return [simulate_head(seed) for seed in range(14)]


@pytest.fixture(scope="module")
def detector(patients: list[Volumes]) -> OODDetector:
    """Fitted on every patient but the first."""
    features = {f"P{i}": measure_features(preprocess(volumes).case) for i, volumes in enumerate(patients[1:])}
    fitted = fit_ood_detector(features)
    assert fitted is not None
    return fitted


def joined_warnings(detector: OODDetector, case: PreprocessedCase) -> str:
    return " | ".join(detector.warnings(measure_features(case)))


def test_training_patients_give_no_warning(patients: list[Volumes], detector: OODDetector) -> None:
    assert not any(joined_warnings(detector, preprocess(volumes).case) for volumes in patients[1:])


@pytest.mark.parametrize(("a", "b"), [("t1", "t2"), ("t2", "flair"), ("t1", "flair")])
def test_exchanged_contrasts_are_named(patients: list[Volumes], detector: OODDetector, a: str, b: str) -> None:
    volumes = patients[0]
    exchanged = preprocess(volumes | {a: volumes[b], b: volumes[a]}).case
    assert f"{' and '.join(sorted((a, b)))} seem exchanged" in joined_warnings(detector, exchanged)


def test_wrong_orientation_warns_of_shape(patients: list[Volumes], detector: OODDetector) -> None:
    assert "in shape" in joined_warnings(detector, change_arrays(patients[0], lambda array: array[:, ::-1]))
    assert "in shape" in joined_warnings(detector, change_arrays(patients[0], lambda array: array.transpose(1, 0, 2)))


def test_noise_and_blur_warn_of_detail(patients: list[Volumes], detector: OODDetector) -> None:
    rng = np.random.default_rng(0)

    def add_noise(array: np.ndarray) -> np.ndarray:
        return np.where(array > 0, np.maximum(array + rng.normal(0, array.std(), array.shape), 1), 0)

    def blur(array: np.ndarray) -> np.ndarray:
        return np.where(array > 0, np.maximum(ndimage.gaussian_filter(array, 2), 1), 0)

    assert "in detail" in joined_warnings(detector, change_arrays(patients[0], add_noise))
    assert "in detail" in joined_warnings(detector, change_arrays(patients[0], blur))


def test_absent_contrast_gives_no_warning(patients: list[Volumes], detector: OODDetector) -> None:
    case = preprocess({name: patients[1][name] for name in CONTRASTS if name != "flair"}).case
    assert not joined_warnings(detector, case)


def test_detector_survives_a_round_trip(patients: list[Volumes], detector: OODDetector) -> None:
    features = measure_features(preprocess(patients[0]).case)
    assert OODDetector.from_dict(detector.to_dict()).scores(features) == detector.scores(features)
    with pytest.raises(KeyError):
        OODDetector.from_dict({})


def test_too_few_patients_give_no_detector(patients: list[Volumes]) -> None:
    features = measure_features(preprocess(patients[0]).case)
    assert fit_ood_detector({f"P{i}": features for i in range(MIN_PATIENTS - 1)}) is None
    visits_of_one_patient = {f"BraTS-GLI-00001-00{i}": features for i in range(MIN_PATIENTS)}
    assert fit_ood_detector(visits_of_one_patient) is None


def test_limits_ignore_other_visits_of_a_patient(patients: list[Volumes]) -> None:
    features = [measure_features(preprocess(volumes).case) for volumes in patients]
    first_visits = {f"BraTS-GLI-{i:05}-000": case for i, case in enumerate(features)}
    second_visits = {f"BraTS-GLI-{i:05}-001": case for i, case in enumerate(features)}
    one_visit, two_visits = fit_ood_detector(first_visits), fit_ood_detector(first_visits | second_visits)
    assert one_visit is not None and two_visits is not None
    for name, group in one_visit.groups.items():
        assert two_visits.groups[name].limit == pytest.approx(group.limit, rel=1e-6)
