"""Patients are the statistical units: the scores of several visits are averaged."""

import numpy as np

from dsdiff.evaluation.results import Results, summarize


def test_patients_count_not_visits():
    scores = {"BraTS-GLI-00001-000": 1.0, "BraTS-GLI-00001-001": 2.0, "BraTS-GLI-00002-000": 3.0}
    results = Results("brain", False, {case: {"ssim": score, "psnr_brain": np.inf} for case, score in scores.items()})
    results.patients["BraTS-GLI-00002-001"] = {"ssim": np.nan}
    summary = summarize(results)["ssim"]
    assert (summary["n"], summary["mean"], summary["min"]) == (2, 2.25, 1.5)
    assert results.values_by_patient("ssim") == [1.5, 3.0]
    assert results.n_patients == 2
