import numpy as np

from dsdiff.comparison_report.pairwise import compare_to_reference
from dsdiff.comparison_report.results import MethodResult, ModelCost, PrimaryMetric

PSNR = PrimaryMetric("psnr_brain", "dB", 0.1)
COST = ModelCost(parameters=1000, macs=10**9, seconds_per_slice=0.1, inference_gib=0.2, training_gib=None)
DOUBLE_COST = ModelCost(parameters=2000, macs=10**9, seconds_per_slice=0.1, inference_gib=0.2, training_gib=None)


def build_result(name, offset, cost=COST, n_seeds=3, n_patients=12):
    """A method whose PSNR is `offset` dB above that of a method with offset 0, on the same patients."""
    rng = np.random.default_rng(0)
    patient_psnr = 20 + rng.normal(size=n_patients) + offset
    seed_effect = 0.01 * np.arange(n_seeds)[:, None]
    noise = 0.02 * rng.normal(size=(n_seeds, n_patients))
    return MethodResult(
        name,
        {"psnr_brain": patient_psnr + seed_effect + noise},
        n_steps=100,
        n_runs=3 * n_seeds,
        seeds=tuple(range(n_seeds)),
        seconds_per_step=0.5,
        cost=cost,
        seconds_per_volume=10.0,
    )


def test_one_decibel_more_is_better_and_the_same_network_is_not():
    methods = [
        build_result("unet", 0.0),
        build_result("better", 1.0, cost=DOUBLE_COST),
        build_result("same", 0.0, cost=DOUBLE_COST),
        build_result("worse", -1.0),
    ]
    results = {result.method: result for result in compare_to_reference(methods, [PSNR])}
    categories = {name: result.verdict.category for name, result in results.items()}
    assert categories == {"better": "better", "same": "not worth it", "worse": "worse"}
    better = results["better"]
    assert abs(better.difference.mean - 1) < 1e-9
    assert better.difference.seeds == (3, 3)
    assert "2.0 x parameters, 1.0 x time: better" in better.verdict.sentence


def test_holm_correction_counts_all_methods_of_the_arm():
    methods = [build_result("unet", 0.0), build_result("a", 1.0), build_result("b", -1.0)]
    for result in compare_to_reference(methods, [PSNR]):
        assert result.p_holm == 2 * result.difference.p  # both have the smallest p that 12 patients can give


def test_the_detectable_difference_is_detected_with_80_percent_power():
    """One of ten methods differs by `detectable`; Holm's correction over all ten finds it in four cases of five."""
    rng = np.random.default_rng(5)
    n_patients = 47

    def random_result(offset, name="x"):
        return MethodResult(name, {"psnr_brain": 20 + offset + rng.normal(size=(1, n_patients))})

    def random_results(count):
        return [random_result(0.0, str(number)) for number in range(count)]

    differences = [result.difference for result in compare_to_reference(random_results(11), [PSNR])]
    detectable = float(np.mean([difference.detectable for difference in differences]))
    categories = []
    for _ in range(100):
        methods = [random_result(0.0), random_result(detectable), *random_results(9)]
        categories.append(compare_to_reference(methods, [PSNR])[0].verdict.category)
    assert 0.68 <= np.mean([category == "better" for category in categories]) <= 0.9


def test_a_method_without_the_score_is_skipped_and_a_baseline_has_no_costs():
    copy_of_t1 = MethodResult("copy of T1", build_result("x", -2.0, n_seeds=1).scores)
    methods = [build_result("unet", 0.0), copy_of_t1, MethodResult("without scores", {})]
    results = compare_to_reference(methods, [PSNR])
    assert [result.method for result in results] == ["copy of T1"]
    assert " x " not in results[0].verdict.sentence
    assert results[0].difference.seeds == (1, 3)


def test_training_hours_are_steps_times_seconds_over_all_runs():
    assert build_result("unet", 0.0).training_hours == 100 * 9 * 0.5 / 3600
    assert MethodResult("copy of T1", {}).training_hours is None


def test_an_effect_of_the_seed_cancels_if_both_methods_have_the_same_seeds():
    seed_effect = np.array([[0.0], [2.0], [-2.0]])

    def interval_width(seeds):
        reference_psnr = build_result("unet", 0.0).scores["psnr_brain"] + seed_effect
        better_psnr = build_result("better", 0.2).scores["psnr_brain"] + seed_effect
        methods = [
            MethodResult("unet", {"psnr_brain": reference_psnr}, 100, 9, (1, 2, 3)),
            MethodResult("better", {"psnr_brain": better_psnr}, 100, 9, seeds),
        ]
        (result,) = compare_to_reference(methods, [PSNR])
        return result.difference.high - result.difference.low

    assert interval_width(seeds=(1, 2, 3)) < 0.2
    assert interval_width(seeds=(4, 5, 6)) > 2


def test_only_patients_with_a_score_under_every_seed_are_counted():
    scores = np.array([[1.0, 2, np.nan], [1.0, np.nan, 3]])
    assert MethodResult("x", {"auc_tumour": scores}).n_patients("auc_tumour") == 1
    assert MethodResult("x", {}).n_patients("auc_tumour") == 0
