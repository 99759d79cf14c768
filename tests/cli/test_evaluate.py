import csv
import json
import re

import nibabel as nib
import numpy as np
import pytest

from dsdiff.errors import CaseError, ConfigError, GeometryError, InputError
from dsdiff.evaluation import calibration, statistics
from dsdiff.evaluation.pairing import pair_cases
from dsdiff.evaluation.patient_scores import read_patient, score_patient
from dsdiff.evaluation.results import evaluate_pairs, mean_calibration_curve, write_csv, write_json
from dsdiff.reporting import evaluation_report, patient_images, score_names
from tests.toy_data import LPS_AFFINE, make_patient, write_case

RNG = np.random.default_rng(0)


def save(path, array, affine=LPS_AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array, np.float32), affine), path)
    return path


def save_synthetic(folder, name, image, std=None):
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
def prediction(tmp_path):
    """A is the truth in another unit, B a copy of T1, C is missing."""
    save_synthetic(tmp_path / "prediction", "A", 3 * make_patient(0)["t1ce"])
    return save_synthetic(tmp_path / "prediction", "B", make_patient(1)["t1"].astype(np.int16))


def evaluate(prediction, truth, protocol="brain", fit=False):
    return evaluate_pairs(pair_cases(prediction, truth, None, None), protocol, fit)


def read_first(pairing):
    return read_patient(*pairing.pairs[0])


def test_cases_are_paired_by_name_and_ranked_worst_first(prediction, truth):
    completed = []
    pairing = pair_cases(prediction, truth, None, None)
    results = evaluate_pairs(pairing, "brain", False, lambda task, done, total, detail="": completed.append(done))
    assert completed == [1, 2]
    assert results.missing_predictions == ("C",)
    assert results.worst_first() == ["B", "A"]

    perfect, copy = results.patients["A"], results.patients["B"]
    assert perfect["psnr_brain"] > 50  # the truth was saved as whole numbers
    assert (perfect["detection"], perfect["false_lesions"]) == (1, 0)
    assert perfect["enhancement_recovery"] == pytest.approx(1, abs=0.01)
    assert (copy["enhancement_recovery"], copy["detection"], copy["false_ml"]) == pytest.approx((0, 0, 0), abs=1e-3)
    assert np.isnan(copy["auc_tumour"])  # the whole tumour enhances in these cases
    assert copy["auc_brain"] == pytest.approx(0.5, abs=0.01)


def test_a_case_that_cannot_be_scored_does_not_stop_the_others(prediction, truth):
    save_synthetic(prediction, "C", np.zeros((44, 52, 24)))
    save_synthetic(prediction, "D", make_patient(3)["t1ce"])
    results = evaluate(prediction, truth)
    assert set(results.patients) == {"A", "B"}
    assert "synthetic T1ce of case C cannot be scored: the image is constant" in results.failures["C"]
    assert "no acquired T1ce by this name" in results.failures["D"]


def test_the_truth_is_not_scored_against_itself(truth):
    results = evaluate(truth, truth)
    assert not results.patients
    assert "the synthetic T1ce of case A is the acquired one" in results.failures["A"]


@pytest.mark.parametrize("change", ["file type", "axes", "background"])
def test_a_copy_of_the_truth_is_not_scored(prediction, truth, change):
    image, affine = nib.load(truth / "C" / "C_t1ce.nii.gz").get_fdata(), LPS_AFFINE
    if change == "axes":
        image, affine = image[::-1], np.diag([1.0, -1, 1, 1])
        affine[:3, 3] = (-43, 51, 0)
    elif change == "background":
        image = np.where(image > 0, image, -1)
    save(prediction / "C" / "C_desc-synthT1ce_T1w.nii.gz", image, affine)
    results = evaluate(prediction, truth)
    assert set(results.patients) == {"A", "B"}
    assert "the synthetic T1ce of case C is a copy of the acquired one" in results.failures["C"]


def test_infinite_scores_are_named(cli, prediction, truth, tmp_path):
    acquired = nib.load(truth / "C" / "C_t1ce.nii.gz").get_fdata()
    save_synthetic(prediction, "C", 2 * acquired)
    code, printed = cli("evaluate", prediction, truth, "-o", tmp_path / "evaluation")
    assert code == 0
    line = "C: infinite, so not in the mean: PSNR, brain; "
    assert line in printed
    assert line in (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")

    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    assert summary["infinite_scores"]["C"][0] == "psnr_brain"
    assert summary["summary"]["psnr_brain"]["n"] == 2
    with (tmp_path / "evaluation" / "patients.csv").open(encoding="utf-8") as file:
        assert {row["case"]: row["psnr_brain"] for row in csv.DictReader(file)}["C"] == "inf"


def test_identical_images_in_the_tumour_only_are_named(prediction, truth):
    acquired, seg = (nib.load(truth / "C" / f"C_{name}.nii.gz").get_fdata() for name in ("t1ce", "seg"))
    save_synthetic(prediction, "C", acquired + 40 * (seg == 0) * (acquired > 0) * np.sign(RNG.normal(size=seg.shape)))
    names = evaluate(prediction, truth, "volume").infinite_scores()
    assert set(names) <= {"C"}
    assert "psnr_volume" not in names.get("C", [])


def test_different_grids_raise(prediction, truth):
    save_synthetic(prediction, "C", make_patient(2)["t1ce"][1:])
    with pytest.raises(GeometryError, match=r"the synthetic T1ce is \(43, 52, 24\), t1ce is \(44, 52, 24\) in case C"):
        read_patient(*pair_cases(prediction, truth, None, None).pairs[2])


def test_orientation_does_not_matter(prediction, truth):
    ras = np.diag([1.0, 1, 1, 1])
    ras[:3, 3] = (-43, 0, 0)  # the same voxels, stored in the opposite order along x and y
    save(prediction / "A" / "A_desc-synthT1ce_T1w.nii.gz", 3 * make_patient(0)["t1ce"][::-1, ::-1], ras)
    assert evaluate(prediction, truth).patients["A"]["psnr_brain"] > 50


def test_single_files(tmp_path):
    files = {name: save(tmp_path / f"{name}.nii.gz", array) for name, array in make_patient(0).items()}
    only_t1ce = pair_cases(files["t1"], files["t1ce"], None, None)
    scores = score_patient(read_first(only_t1ce), "brain", False)
    assert "enhancement_recovery" not in scores  # it needs T1
    assert np.isnan(scores["psnr_tumour"])

    with_t1_and_seg = pair_cases(files["t1"], files["t1ce"], files["t1"], files["seg"])
    assert score_patient(read_first(with_t1_and_seg), "brain", False)["enhancement_recovery"] == 0


def test_segmentations_of_another_folder(prediction, truth, tmp_path):
    (tmp_path / "seg").mkdir()
    for name in "ABC":
        (truth / name / f"{name}_seg.nii.gz").rename(tmp_path / "seg" / f"{name}_seg.nii.gz")
    assert np.isnan(evaluate(prediction, truth).patients["A"]["enhancement_recovery"])
    pairing = pair_cases(prediction, truth, None, tmp_path / "seg")
    scores = score_patient(read_first(pairing), "brain", False)
    assert scores["enhancement_recovery"] == pytest.approx(1, abs=0.01)


def test_predictions_of_other_systems_are_recognized_by_their_brats_names(truth, tmp_path):
    for name in "AB":
        save(tmp_path / "brats" / f"{name}-t1c.nii.gz", make_patient(0)["t1ce"])
    assert [case.name for _, case in pair_cases(tmp_path / "brats", truth, None, None).pairs] == ["A", "B"]


def test_wrong_inputs_raise(prediction, truth, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, acquired, t1, seg, error, message in [
        (tmp_path / "absent", truth, None, None, InputError, "no such file"),
        (empty, truth, None, None, InputError, "no synthetic T1ce in"),
        (prediction, truth, truth / "A" / "A_t1.nii.gz", None, ConfigError, "--t1 needs a TRUTH that is a file"),
        (prediction, truth, None, truth / "A" / "A_seg.nii.gz", ConfigError, "one file for 3 cases"),
    ]:
        with pytest.raises(error, match=message):
            pair_cases(folder, acquired, t1, seg)

    for name in "XY":
        save_synthetic(tmp_path / "strange", name, make_patient(0)["t1ce"])
    with pytest.raises(InputError, match="found X against A; names must agree"):
        pair_cases(tmp_path / "strange", truth, None, None)
    save(prediction / "copies" / "A_t1ce.nii.gz", make_patient(0)["t1ce"])
    with pytest.raises(CaseError, match="case A has more than one synthetic T1ce"):
        pair_cases(prediction, truth, None, None)


def test_calibration_is_scored_from_std_and_from_samples(tmp_path):
    images = make_patient(0)
    brain, folder, truth = images["t1ce"] > 0, tmp_path / "prediction", tmp_path / "truth"
    save_synthetic(folder, "A", images["t1ce"] + 8 * RNG.normal(size=brain.shape) * brain, 8.0 * brain)
    for k in range(6):
        sample = images["t1ce"] + 8 * RNG.normal(size=brain.shape) * brain
        save(folder / "B" / f"B_desc-sample{k}T1ce_T1w.nii.gz", sample)
    save_synthetic(folder, "B", images["t1ce"])
    for name in "AB":
        write_case(truth, name)
    results = evaluate(folder, truth)

    cropped = read_first(pair_cases(folder, truth, None, None)).crop_to_brain()
    image, acquired, _ = cropped.robust_zscores()
    inside = cropped.image[cropped.regions.brain]
    width = 1.4826 * np.median(np.abs(inside - np.median(inside)))  # of the image to which the std belongs
    expected = calibration.coverage(acquired, image, cropped.std / width, cropped.regions.brain)
    std_scores, sample_scores = results.patients["A"], results.patients["B"]
    assert std_scores["coverage_95"] == pytest.approx(expected[0.95])
    assert np.isnan(std_scores["error_correlation"])  # a constant std has no rank correlation
    assert 0 < sample_scores["coverage_50"] < sample_scores["coverage_95"] <= 1
    assert len(mean_calibration_curve(results)) == 19
    assert "Calibration curve" in evaluation_report.render_plots(results)["Calibration of the uncertainty"]


def test_results_as_csv_and_json(prediction, truth, tmp_path):
    save_synthetic(prediction, "C", np.zeros((44, 52, 24)))
    results = evaluate(prediction, truth, "volume", True)
    recoveries = results.values("enhancement_recovery")

    write_csv(results, tmp_path / "patients.csv")
    with (tmp_path / "patients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["B", "A", "C"]
    assert {(row["protocol"], row["fit"]) for row in rows} == {("volume", "True")}
    assert float(rows[1]["enhancement_recovery"]) == pytest.approx(recoveries[0], abs=1e-5)
    assert rows[0]["ms_ssim_tumour"] == ""
    assert "constant" in rows[2]["error"]

    write_json(results, tmp_path / "summary.json")
    text = (tmp_path / "summary.json").read_text()
    document = json.loads(text)
    assert (document["protocol"]["name"], document["protocol"]["fit"]) == ("volume", True)
    summary = document["summary"]["enhancement_recovery"]
    assert summary["n"] == 2
    expected = statistics.confidence_interval(recoveries)
    assert (summary["mean"], summary["low"], summary["high"]) == pytest.approx(expected)
    bias = np.mean(results.values("enhancing_ml")) - np.mean(results.values("enhancing_ml_truth"))
    assert document["enhancing_volume"]["bias"] == pytest.approx(bias)
    assert str(tmp_path) not in text


def test_the_report_is_one_page_without_external_resources(prediction, truth):
    pairing = pair_cases(prediction, truth, None, None)
    results = evaluate_pairs(pairing, "brain", False)
    pairs = {case.name: (synthetic, case) for synthetic, case in pairing.pairs}
    page = evaluation_report.render_html(
        results, lambda name: patient_images.patient_panels(read_patient(*pairs[name]))
    )
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|https?://|@import|url\(""", page)
    assert page.index("<h3>B") < page.index("<h3>A")  # the failure first
    assert page.count("data:image/png;base64,") == 2 * 6
    assert "1 of 1 lesion missed" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert "<svg" in page
    assert "1 acquired case without a synthetic T1ce" in page


def test_a_single_case_on_either_side_is_paired_by_name_unless_it_is_a_file(truth, tmp_path):
    save_synthetic(tmp_path / "prediction", "A", make_patient(0)["t1ce"])
    with pytest.raises(InputError, match="found A against B; names must agree"):
        pair_cases(tmp_path / "prediction", truth / "B", None, None)
    pairing = pair_cases(tmp_path / "prediction", truth / "B" / "B_t1ce.nii.gz", None, None)
    assert [case.name for _, case in pairing.pairs] == ["B"]


def test_duplicate_and_foreign_segmentations_raise_and_hidden_folders_are_ignored(prediction, truth, tmp_path):
    save_synthetic(prediction / ".A.x.partial", "A", make_patient(0)["t1"])
    save(truth / "A" / "A_dseg.nii.gz", make_patient(0)["seg"])
    results = evaluate(prediction, truth)
    assert "case A has more than one seg" in results.failures["A"]
    assert set(results.patients) == {"B"}

    save(tmp_path / "seg" / "X_seg.nii.gz", make_patient(0)["seg"])
    with pytest.raises(InputError, match=r"no segmentation of .* is of a case of TRUTH: found X against A"):
        pair_cases(prediction, truth, None, tmp_path / "seg")
    for seed, name in enumerate("AB"):
        save(tmp_path / "seg" / f"{name}_seg.nii.gz", make_patient(seed)["seg"])
    pairing = pair_cases(prediction, truth, None, tmp_path / "seg")
    scores = score_patient(read_first(pairing), "brain", False)
    assert scores["enhancement_recovery"] == pytest.approx(1, abs=0.01)


def test_images_show_the_slice_with_most_enhancement(prediction, truth):
    first = read_first(pair_cases(prediction, truth, None, None))
    no_enhancement = np.zeros_like(first.regions.brain)
    assert patient_images.select_slice(first, no_enhancement) == int(first.regions.enhancing.sum((0, 1)).argmax())
    titles = [panel.title for panel in patient_images.patient_panels(first)]
    assert titles[:3] == ["T1", "synthetic T1ce", "acquired T1ce"]


def test_every_score_has_a_title(prediction, truth):
    for protocol in ("brain", "brasyn", "volume"):
        for name in evaluate(prediction, truth, protocol).score_names():
            assert score_names.describe_score(name).title
    expected = score_names.ScoreInfo("MS-SSIM, outside the tumour", "", "higher")
    assert score_names.describe_score("ms_ssim_rest") == expected
    assert score_names.describe_score("coverage_35").better == "near 0.35"
    with pytest.raises(KeyError):
        score_names.describe_score("nonesuch_brain")


def test_warnings_in_the_provenance_are_reported(prediction, truth, cli, tmp_path):
    warning = "this patient was in the training set"
    provenance = {"model": {"name": "tiny", "hash": "abc"}, "warnings": [warning]}
    (prediction / "A" / "provenance.json").write_text(json.dumps(provenance))
    (prediction / "B" / "provenance.json").write_text("[]")
    code, output = cli("evaluate", prediction, truth, "-o", tmp_path / "out")
    assert (code, f"1 of 2: {warning}" in output) == (0, True)
    document = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (document["models"], document["warnings"]) == (["tiny abc"], {warning: ["A"]})
    assert warning in (tmp_path / "out" / "report.html").read_text()


def test_warnings_about_headers_are_reported(prediction, truth):
    path = truth / "A" / "A_t1.nii.gz"
    image = nib.load(path)
    image.set_sform(image.affine, 1)
    image.set_qform(np.diag([-1, 1, 1, 1]) @ image.affine, 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    ((warning, cases),) = evaluate(prediction, truth).warnings.items()
    assert warning.startswith("the header of t1 gives qform and sform that disagree on left and right")
    assert cases == ("A",)


def test_a_patient_without_a_segmented_tumour_is_reported(prediction, truth, cli, tmp_path):
    (truth / "B" / "B_seg.nii.gz").unlink()
    code, output = cli("evaluate", prediction, truth, "-o", tmp_path / "out")
    assert (code, "1 without a segmented tumour: lesions cannot be counted" in output) == (0, True), output
    assert evaluation_report.NO_TUMOUR in (tmp_path / "out" / "report.html").read_text()


def test_the_reason_of_a_failure_is_printed(prediction, truth, cli, tmp_path):
    (truth / "B" / "B_t1ce.nii.gz").write_bytes(b"no image")
    code, output = cli("evaluate", prediction, truth, "-o", tmp_path / "out")
    assert (code, "1 case could not be scored:" in output, "  B: " in output) == (1, True, True), output
