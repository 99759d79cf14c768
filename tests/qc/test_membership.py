"""Recognition of training patients by their features."""

import numpy as np
import pytest

from dsdiff.qc import membership
from dsdiff.qc.lineage import NO_FOLD, PretrainingRecord
from dsdiff.qc.membership import CaseFeatures, TrainingSetIndex


def random_features(seed: int) -> CaseFeatures:
    rng = np.random.default_rng(seed)
    return {"contrast": {"correlation": rng.normal(), "darkest": rng.normal()}, "detail": {"roughness": rng.normal()}}


@pytest.fixture(scope="module")
def index() -> TrainingSetIndex:
    fitted = membership.fit_training_index([random_features(seed) for seed in range(12)])
    assert fitted is not None
    return fitted


def test_training_patients_are_recognized_and_others_are_not(index):
    assert index.contains(random_features(0))
    assert not index.contains(random_features(90))
    assert not index.contains({})


@pytest.mark.parametrize("n_patients", [1, 2])
def test_an_index_needs_only_one_patient(n_patients):
    patients = [random_features(seed) for seed in range(n_patients)]
    small_index = membership.fit_training_index(patients)
    assert all(small_index.contains(patient) for patient in patients)
    assert not small_index.contains(random_features(7))


def test_there_is_no_index_without_patients_or_features():
    assert membership.fit_training_index([]) is None
    assert membership.fit_training_index([random_features(0), {}]) is None


def test_a_parent_model_trained_on_its_patients_only(index):
    record = PretrainingRecord(NO_FOLD, index)
    assert record.trained_on(random_features(0))
    assert not record.trained_on(random_features(90))
    assert record.can_verify(("xyz", 0))


def test_a_parent_model_of_the_same_split_trained_on_all_other_folds():
    record = PretrainingRecord(("abc", 1), None)
    assert record.trained_on(random_features(0), ("abc", 0))
    assert not record.trained_on(random_features(0), ("abc", 1))
    assert not record.trained_on(random_features(0))
    assert (record.can_verify(("abc", 0)), record.can_verify(("xyz", 0))) == (True, False)


def test_a_parent_model_survives_a_dictionary(index):
    for record in (PretrainingRecord(("abc", 1), None), PretrainingRecord(NO_FOLD, index)):
        restored = PretrainingRecord.from_dict(record.to_dict())
        assert restored.fold == record.fold
        assert restored.trained_on(random_features(0)) == record.trained_on(random_features(0))
