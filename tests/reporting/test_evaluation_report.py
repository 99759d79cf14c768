import re

from matplotlib.colors import to_hex

from dsdiff.evaluation.results import Results
from dsdiff.reporting import evaluation_report, patient_images, score_plots, slice_views


def test_a_large_cohort_shows_every_kind_of_failure_median_and_best():
    patients = {f"p{k:02d}": {"auc_tumour": k / 20, "psnr_brain": 20.0, "false_ml": 99.0} for k in range(20)}
    for name, psnr, false_ml in (("good", 25.0, 0.0), ("dull", 9.0, 2.0), ("bad", 20.0, 80.0)):
        patients[name] = {"auc_tumour": float("nan"), "psnr_brain": psnr, "false_ml": false_ml}
    results = Results("brain", False, patients)
    ranks = evaluation_report.select_patients(results)
    assert list(ranks) == ["p00", "p01", "p02", "bad", "dull", "p09", "p10", "p18", "p19"]
    assert ranks["p09"] == "median, 10 of 20"
    assert ranks["bad"] == "most false enhancement"
    assert results.worst_first()[-3:] == ["bad", "dull", "good"]


def test_few_patients_with_an_auc_keep_their_first_rank():
    patients = {f"p{k}": {"auc_tumour": k / 20, "psnr_brain": 20.0, "false_ml": 1.0} for k in range(5)}
    patients |= {f"q{k}": {"auc_tumour": float("nan"), "psnr_brain": 20.0, "false_ml": 1.0} for k in range(4)}
    ranks = evaluation_report.select_patients(Results("brain", False, patients))
    assert [ranks[f"p{k}"] for k in (2, 3, 4)] == ["worst, 3 of 5", "best, 4 of 5", "best, 5 of 5"]


def test_without_any_segmentation_patients_are_ranked_by_similarity():
    patients = {f"p{k}": {"auc_tumour": float("nan"), "psnr_brain": 20.0 + k, "false_ml": 9.0 * k} for k in range(9)}
    ranks = evaluation_report.select_patients(Results("brain", False, patients))
    assert list(ranks) == ["p0", "p1", "p2", "p3", "p4", "p7", "p8"]


def test_the_legend_has_the_colors_of_the_images():
    legend = patient_images.color_legend()
    error_range = (-patient_images.ERROR_RANGE, patient_images.ERROR_RANGE)
    for name, colormap, (low, high) in (
        ("enhancement", slice_views.ENHANCEMENT_COLORMAP, slice_views.ENHANCEMENT_RANGE),
        ("uncertainty", slice_views.UNCERTAINTY_COLORMAP, slice_views.UNCERTAINTY_RANGE),
        ("error", patient_images.ERROR_COLORMAP, error_range),
    ):
        first, last, css = legend[name]
        stops = re.findall("#[0-9a-f]{6}", css)
        values = (first, (first + last) / 2, last)
        expected = [to_hex(colormap((value - low) / (high - low))) for value in values]
        assert [stops[0], stops[len(stops) // 2], stops[-1]] == expected


def test_boxes_are_drawn_at_their_values():
    rows = {"x": {"a": 0.0, "b": 1.0, "c": 2.0}, "empty": {"a": float("nan")}}
    plot = score_plots.box_plot(rows, "dB", {"x": 0.5})
    axis = score_plots.axis_around([0.0, 2.0], score_plots.LEFT, score_plots.WIDTH - score_plots.RIGHT)
    assert f'class="median" x1="{axis.to_pixel(1.0)}"' in plot
    assert f'class="reference" x1="{axis.to_pixel(0.5)}"' in plot
    assert plot.count("<circle") == 3
    assert "empty" not in plot
    assert score_plots.box_plot({}, "dB", {}) == ""
    assert "&lt;b&gt;" in score_plots.box_plot({"<b>": {"a": 1.0}}, "", {})
