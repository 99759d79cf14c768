"""Patients are what is drawn at random: of several visits it is their mean that counts."""

import numpy as np

from dsdiff.evaluation import results as cohort


def test_patients_are_what_is_counted_not_their_visits():
    scores = {"BraTS-GLI-00001-000": 1.0, "BraTS-GLI-00001-001": 2.0, "BraTS-GLI-00002-000": 3.0}
    results = cohort.Results(
        "brain", False, {case: {"ssim": score, "psnr_brain": np.inf} for case, score in scores.items()}
    )
    results.patients["BraTS-GLI-00002-001"] = {"ssim": np.nan}
    found = cohort.summary(results)["ssim"]
    assert (found["n"], found["mean"], found["least"]) == (2, 2.25, 1.5)
    assert results.by_patient("ssim") == [1.5, 3.0]
    assert results.count == 2
