import csv
import json
import re

import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from dsdiff.errors import CaseError, ConfigError, GeometryError, InputError
from dsdiff.evaluation import calibration, pairing, statistics
from dsdiff.evaluation import patient_scores as one
from dsdiff.evaluation import results as cohort
from dsdiff.reporting import evaluation_report, patient_images, score_names, score_plots, slice_views
from tests.toy_data import LPS, patient, write_case

RNG = np.random.default_rng(0)


def save(path, array, affine=LPS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array, np.float32), affine), path)
    return path


def synthesised(folder, name, image, std=None):
    save(folder / name / f"{name}_desc-synthT1ce_T1w.nii.gz", image)
    if std is not None:
        save(folder / name / f"{name}_desc-stdT1ce_T1w.nii.gz", std)
    return folder


@pytest.fixture
def truth(tmp_path):
    for k, name in enumerate(("A", "B", "C")):
        write_case(tmp_path / "truth", name, seed=k)
    return tmp_path / "truth"


@pytest.fixture
def made(tmp_path):
    """A is the truth itself in another unit, B a copy of T1, C is left out."""
    synthesised(tmp_path / "made", "A", 3 * patient(0)["t1ce"])
    return synthesised(tmp_path / "made", "B", patient(1)["t1"].astype(np.int16))


def evaluated(made, truth, protocol="brain", fit=False):
    said = []
    found = pairing.find(made, truth, None, None)
    return cohort.evaluate(found, protocol, fit, lambda case, reason: said.append((case, reason))), said, found


def test_cases_are_paired_by_name_and_ranked_worst_first(made, truth):
    results, said, _ = evaluated(made, truth)
    assert said == [("A", None), ("B", None)]
    assert results.without_prediction == ("C",)
    assert results.ranked() == ["B", "A"]
    perfect, copy = results.patients["A"], results.patients["B"]
    assert perfect["psnr_brain"] > 50  # the truth was written as whole numbers
    assert (perfect["detection"], perfect["false_lesions"]) == (1, 0)
    assert perfect["gain"] == pytest.approx(1, abs=0.01)
    assert (copy["gain"], copy["detection"], copy["false_ml"]) == pytest.approx((0, 0, 0), abs=1e-3)
    assert np.isnan(copy["auc_tumour"])  # here the whole tumour enhances
    assert copy["auc_brain"] == pytest.approx(0.5, abs=0.01)


def test_a_case_that_cannot_be_scored_does_not_stop_the_others(made, truth):
    synthesised(made, "C", np.zeros((44, 52, 24)))
    synthesised(made, "D", patient(3)["t1ce"])
    results, said, _ = evaluated(made, truth)
    assert set(results.patients) == {"A", "B"}
    assert "synthetic T1ce of case C cannot be scored: the image is constant" in results.failed["C"]
    assert "no acquired T1ce by this name" in results.failed["D"]
    assert said[-1] == ("C", results.failed["C"])


def test_the_truth_is_not_scored_against_itself(truth):
    results, _, _ = evaluated(truth, truth)
    assert not results.patients
    assert "the synthetic T1ce of case A is the acquired one" in results.failed["A"]


def test_another_grid_is_said(made, truth):
    synthesised(made, "C", patient(2)["t1ce"][1:])
    with pytest.raises(GeometryError, match=r"the synthetic T1ce is \(43, 52, 24\), t1ce is \(44, 52, 24\) in case C"):
        one.read(*pairing.find(made, truth, None, None).found[2])


def test_orientation_does_not_matter(made, truth):
    ras = np.diag([1.0, 1, 1, 1])
    ras[:3, 3] = (-43, 0, 0)  # the same places, counted the other way along x and y
    save(made / "A" / "A_desc-synthT1ce_T1w.nii.gz", 3 * patient(0)["t1ce"][::-1, ::-1], ras)
    assert evaluated(made, truth)[0].patients["A"]["psnr_brain"] > 50


def test_single_files(tmp_path):
    images = patient(0)
    files = {name: save(tmp_path / f"{name}.nii.gz", array) for name, array in images.items()}
    bare = pairing.find(files["t1"], files["t1ce"], None, None)
    scores = one.score(one.read(*bare.found[0]), "brain", False)
    assert "gain" not in scores  # without T1 there is no enhancement
    assert np.isnan(scores["psnr_tumour"])
    full = pairing.find(files["t1"], files["t1ce"], files["t1"], files["seg"])
    assert one.score(one.read(*full.found[0]), "brain", False)["gain"] == 0


def test_segmentations_of_another_folder(made, truth, tmp_path):
    for name in "ABC":
        (tmp_path / "seg").mkdir(exist_ok=True)
        (truth / name / f"{name}_seg.nii.gz").rename(tmp_path / "seg" / f"{name}_seg.nii.gz")
    assert np.isnan(evaluated(made, truth)[0].patients["A"]["gain"])
    found = pairing.find(made, truth, None, tmp_path / "seg")
    assert one.score(one.read(*found.found[0]), "brain", False)["gain"] == pytest.approx(1, abs=0.01)


def test_predictions_of_other_systems_are_known_by_the_names_of_the_field(truth, tmp_path):
    for name in "AB":
        save(tmp_path / "other" / f"{name}-t1c.nii.gz", patient(0)["t1ce"])
    assert [case.name for _, case in pairing.find(tmp_path / "other", truth, None, None).found] == ["A", "B"]


def test_mistakes_are_said(made, truth, tmp_path):
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    for prediction, acquired, t1, seg, error, says in [
        (tmp_path / "absent", truth, None, None, InputError, "no such file"),
        (nothing, truth, None, None, InputError, "holds no synthetic T1ce"),
        (made, truth, truth / "A" / "A_t1.nii.gz", None, ConfigError, "--t1 goes with"),
        (made, truth, None, truth / "A" / "A_seg.nii.gz", ConfigError, "one file for 3 cases"),
    ]:
        with pytest.raises(error, match=says):
            pairing.find(prediction, acquired, t1, seg)
    synthesised(tmp_path / "strange", "X", patient(0)["t1ce"])
    synthesised(tmp_path / "strange", "Y", patient(0)["t1ce"])
    with pytest.raises(InputError, match="found X against A; names must agree"):
        pairing.find(tmp_path / "strange", truth, None, None)
    save(made / "more" / "A_t1ce.nii.gz", patient(0)["t1ce"])
    with pytest.raises(CaseError, match="case A has more than one synthetic T1ce"):
        pairing.find(made, truth, None, None)


def test_uncertainty_is_scored_from_spread_and_from_samples(truth, tmp_path):
    images = patient(0)
    brain, folder = images["t1ce"] > 0, tmp_path / "made"
    synthesised(folder, "A", images["t1ce"] + 8 * RNG.normal(size=brain.shape) * brain, 8.0 * brain)
    for k in range(6):
        noisy = images["t1ce"] + 8 * RNG.normal(size=brain.shape) * brain
        save(folder / "B" / f"B_desc-sample{k}T1ce_T1w.nii.gz", noisy)
    synthesised(folder, "B", images["t1ce"])
    write_case(tmp_path / "same", "A")
    write_case(tmp_path / "same", "B")
    results, _, _ = evaluated(folder, tmp_path / "same")
    spread, samples = results.patients["A"], results.patients["B"]
    read = one.read(*pairing.find(folder, tmp_path / "same", None, None).found[0]).boxed()
    made, true, _ = read.robust()
    inside = read.image[read.regions.brain]
    std = read.std / (1.4826 * np.median(np.abs(inside - np.median(inside))))  # on the scale of the image it belongs to
    expected = calibration.coverage(true, made, std, read.regions.brain)
    assert spread["coverage_95"] == pytest.approx(expected[0.95])
    assert spread["error_correlation"] != spread["error_correlation"]  # an even spread tells nothing of the error
    assert 0 < samples["coverage_50"] < samples["coverage_95"] <= 1
    assert len(cohort.calibration(results)) == 19
    assert "Calibration curve" in evaluation_report.drawn(results)["Calibration of the uncertainty"]


def test_results_as_csv_and_json(made, truth, tmp_path):
    synthesised(made, "C", np.zeros((44, 52, 24)))
    results, _, _ = evaluated(made, truth, "volume", True)
    cohort.write_csv(results, tmp_path / "patients.csv")
    with (tmp_path / "patients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["B", "A", "C"]
    assert {(row["protocol"], row["fit"]) for row in rows} == {("volume", "True")}
    assert float(rows[1]["gain"]) == pytest.approx(results.patients["A"]["gain"], abs=1e-5)
    assert rows[0]["ms_ssim_tumour"] == ""
    assert "constant" in rows[2]["error"]
    cohort.write_json(results, tmp_path / "summary.json")
    facts = json.loads((tmp_path / "summary.json").read_text())
    assert facts["protocol"]["name"] == "volume"
    assert facts["protocol"]["fit"]
    assert facts["summary"]["gain"]["n"] == 2
    mean, low, high = statistics.interval(results.values("gain"))
    assert facts["summary"]["gain"]["mean"] == pytest.approx(mean)
    assert (facts["summary"]["gain"]["low"], facts["summary"]["gain"]["high"]) == pytest.approx((low, high))
    made_ml, true_ml = results.values("enhancing_ml"), results.values("enhancing_ml_truth")
    assert facts["enhancing_volume"]["bias"] == pytest.approx(np.mean(made_ml) - np.mean(true_ml))
    assert str(tmp_path) not in (tmp_path / "summary.json").read_text()


def test_the_report_is_one_page_that_asks_for_nothing(made, truth):
    results, _, found = evaluated(made, truth)
    by_name = {case.name: (made_one, case) for made_one, case in found.found}
    page = evaluation_report.page(results, lambda case: patient_images.panels(one.read(*by_name[case])))
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|https?://|@import|url\(""", page)
    assert page.index("<h3>B") < page.index("<h3>A")  # the failure first
    assert page.count("data:image/png;base64,") == 2 * 6
    assert "1 of 1 lesion missed" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert "<svg" in page
    assert "1 acquired case without a synthetic T1ce" in page


def test_a_large_cohort_shows_every_kind_of_failure_median_and_best():
    patients = {f"p{k:02d}": {"auc_tumour": k / 20, "psnr_brain": 20.0, "false_ml": 99.0} for k in range(20)}
    patients |= {
        name: {"auc_tumour": float("nan"), "psnr_brain": psnr, "false_ml": ml}
        for name, psnr, ml in (("good", 25.0, 0.0), ("dull", 9.0, 2.0), ("bad", 20.0, 80.0))
    }
    results = cohort.Results("brain", False, patients)
    places = evaluation_report.chosen(results)
    assert list(places) == ["p00", "p01", "p02", "bad", "dull", "p09", "p10", "p18", "p19"]
    assert places["p09"] == "median, 10 of 20"
    assert places["bad"] == "most enhancement where nothing enhances"
    assert results.ranked()[-3:] == ["bad", "dull", "good"]


def test_of_few_that_are_placed_none_is_called_what_it_is_not():
    patients = {f"p{k}": {"auc_tumour": k / 20, "psnr_brain": 20.0, "false_ml": 1.0} for k in range(5)}
    patients |= {f"q{k}": {"auc_tumour": float("nan"), "psnr_brain": 20.0, "false_ml": 1.0} for k in range(4)}
    places = evaluation_report.chosen(cohort.Results("brain", False, patients))
    assert [places[f"p{k}"] for k in (2, 3, 4)] == ["worst, 3 of 5", "best, 4 of 5", "best, 5 of 5"]


def test_the_legend_is_of_the_colours_that_are_drawn():
    legend = patient_images.legend()
    for name, colours, (low, high) in (
        ("enhancement", slice_views.ENHANCEMENT_COLOURS, slice_views.ENHANCEMENT_RANGE),
        ("uncertainty", slice_views.SPREAD_COLOURS, slice_views.SPREAD_RANGE),
        ("error", patient_images.ERROR_COLOURS, (-patient_images.ERROR_RANGE, patient_images.ERROR_RANGE)),
    ):
        first, last, css = legend[name]
        stops = re.findall("#[0-9a-f]{6}", css)
        drawn = [to_hex(colours((value - low) / (high - low))) for value in (first, (first + last) / 2, last)]
        assert [stops[0], stops[len(stops) // 2], stops[-1]] == drawn


def test_without_any_segmentation_likeness_ranks():
    patients = {f"p{k}": {"auc_tumour": float("nan"), "psnr_brain": 20.0 + k, "false_ml": 9.0 * k} for k in range(9)}
    places = evaluation_report.chosen(cohort.Results("brain", False, patients))
    assert list(places) == ["p0", "p1", "p2", "p3", "p4", "p7", "p8"]


def test_one_case_on_either_side_is_paired_by_name_too(truth, tmp_path):
    synthesised(tmp_path / "made", "A", patient(0)["t1ce"])
    with pytest.raises(InputError, match="found A against B; names must agree"):
        pairing.find(tmp_path / "made", truth / "B", None, None)
    alone = pairing.find(tmp_path / "made", truth / "B" / "B_t1ce.nii.gz", None, None)  # files are what was meant
    assert [case.name for _, case in alone.found] == ["B"]


def test_doubles_and_strange_segmentations_are_said_and_hidden_folders_left_out(made, truth, tmp_path):
    synthesised(made / ".A.x.partial", "A", patient(0)["t1"])
    save(truth / "A" / "A_dseg.nii.gz", patient(0)["seg"])
    results, _, _ = evaluated(made, truth)
    assert "case A has more than one seg" in results.failed["A"]
    assert set(results.patients) == {"B"}
    save(tmp_path / "seg" / "X_seg.nii.gz", patient(0)["seg"])
    with pytest.raises(InputError, match=r"no segmentation of .* is of a case of TRUTH: found X against A"):
        pairing.find(made, truth, None, tmp_path / "seg")
    for name in "AB":
        save(tmp_path / "seg" / f"{name}_seg.nii.gz", patient("AB".index(name))["seg"])
    found = pairing.find(made, truth, None, tmp_path / "seg")
    assert one.score(one.read(*found.found[0]), "brain", False)["gain"] == pytest.approx(1, abs=0.01)


def test_pictures_show_the_slice_with_most_enhancement(made, truth):
    read = one.read(*pairing.find(made, truth, None, None).found[0])
    nowhere = np.zeros_like(read.regions.brain)
    assert patient_images.show_slice(read, nowhere) == int(read.regions.enhancing.sum((0, 1)).argmax())
    assert [panel.title for panel in patient_images.panels(read)][:3] == ["T1", "synthetic T1ce", "acquired T1ce"]


def test_boxes_stand_where_their_values_are():
    drawn = score_plots.box_plot({"x": {"a": 0.0, "b": 1.0, "c": 2.0}, "empty": {"a": float("nan")}}, "dB", {"x": 0.5})
    axis = score_plots.spanning([0.0, 2.0], score_plots.LEFT, score_plots.WIDTH - score_plots.RIGHT)
    assert f'class="median" x1="{axis.at(1.0)}"' in drawn
    assert f'class="mark" x1="{axis.at(0.5)}"' in drawn
    assert drawn.count("<circle") == 3
    assert "empty" not in drawn
    assert score_plots.box_plot({}, "dB", {}) == ""
    assert "&lt;b&gt;" in score_plots.box_plot({"<b>": {"a": 1.0}}, "", {})


def test_every_score_has_a_name(made, truth):
    for protocol in ("brain", "brasyn", "volume"):
        for name in evaluated(made, truth, protocol)[0].names():
            assert score_names.describe(name).title
    assert score_names.describe("ms_ssim_rest") == score_names.Measure("MS-SSIM, rest", "", "more")
    assert score_names.describe("coverage_35").better == "near 0.35"
    with pytest.raises(KeyError):
        score_names.describe("nonesuch_brain")


def test_what_the_provenance_warns_of_is_said(made, truth, cli, tmp_path):
    seen = "one of the patients that the model was trained on"
    told = {"model": {"name": "mine", "hash": "abc"}, "warnings": [seen]}
    (made / "A" / "provenance.json").write_text(json.dumps(told))
    (made / "B" / "provenance.json").write_text("[]")
    code, said = cli("evaluate", made, truth, "-o", tmp_path / "out")
    assert (code, f"1 of 2: {seen}" in said) == (0, True)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["models"], summary["doubts"]) == (["mine abc"], {seen: ["A"]})
    assert seen in (tmp_path / "out" / "report.html").read_text()


def test_a_patient_without_a_segmented_tumour_is_said(made, truth, cli, tmp_path):
    (truth / "B" / "B_seg.nii.gz").unlink()
    code, said = cli("evaluate", made, truth, "-o", tmp_path / "out")
    assert (code, "1 have no segmented tumour: no lesions are counted" in said) == (0, True), said
    assert evaluation_report.NO_TUMOUR in (tmp_path / "out" / "report.html").read_text()


def test_why_a_case_could_not_be_scored_is_said(made, truth, cli, tmp_path):
    (truth / "B" / "B_t1ce.nii.gz").write_bytes(b"no image")
    code, said = cli("evaluate", made, truth, "-o", tmp_path / "out")
    assert (code, "1 cases could not be scored:" in said, "  B: " in said) == (1, True, True), said
