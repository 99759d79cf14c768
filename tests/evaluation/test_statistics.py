import numpy as np
import pytest

from dsdiff.evaluation import statistics

N_STUDIES, DRAWS = 500, 400  # simulated studies; bootstrap draws of each


def simulate(rng, n, shift=0.0, seeds=1, patient_sd=1.0, seed_sd=0.0, noise=0.5):
    """Simulate scores (s, p) of candidate and reference: patients differ, methods interact with patients, seeds shift all
    patients."""
    patients = 20 + 2 * rng.normal(size=n)
    runs = []
    for method_effect in (shift, 0.0):
        patient_effects = patient_sd * rng.normal(size=n)
        run_effects = seed_sd * rng.normal(size=(seeds, 1)) + noise * rng.normal(size=(seeds, n))
        runs.append(patients + method_effect + patient_effects + run_effects)
    return runs


def simulate_differences(rng, n, shift, **effects):
    return [statistics.compare_paired(*simulate(rng, n, shift, **effects), draws=DRAWS) for _ in range(N_STUDIES)]


def verdict_categories(differences):
    verdicts = [statistics.make_verdict("x", difference, difference.p, "dB", 0.1, {}) for difference in differences]
    return [verdict.category for verdict in verdicts]


def coverage(differences, truth):
    return np.mean([difference.low <= truth <= difference.high for difference in differences])


def test_intervals_by_hand_without_nan():
    mean, low, high = statistics.confidence_interval([1.0, 2.0, 3.0, float("nan")])
    assert mean == 2
    assert np.allclose([low, high], [2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5], atol=0.05)  # Student's t of three
    assert np.isnan(statistics.confidence_interval([float("nan")])).all()
    mean, low, high = statistics.confidence_interval([0.71, float("nan")])
    assert (mean, np.isnan([low, high]).all()) == (0.71, True)  # one patient has no interval


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 12, 47])
def test_intervals_of_a_mean_cover_at_their_nominal_rate(n):
    rng = np.random.default_rng(n)
    intervals = []
    for seed in range(2 * N_STUDIES):
        intervals.append(statistics.confidence_interval(rng.normal(0.7, 1, n).tolist(), seed, DRAWS))
    assert 0.92 <= np.mean([low <= 0.7 <= high for _, low, high in intervals]) <= 0.98


@pytest.mark.parametrize("n", [3, 12, 47])
def test_intervals_of_a_difference_cover_at_their_nominal_rate(n):
    differences = simulate_differences(np.random.default_rng(n), n, 0.7)
    assert 0.92 <= coverage(differences, 0.7) <= 0.98


def test_intervals_cover_with_seeds_as_a_random_effect():
    rng = np.random.default_rng(1)
    differences = simulate_differences(rng, 47, 0.0, seeds=3, patient_sd=0.5, seed_sd=0.5)
    assert 0.93 <= coverage(differences, 0.0) <= 0.99
    of_one_seed = simulate_differences(rng, 47, 0, seeds=1, patient_sd=0.5, seed_sd=0.5)
    assert coverage(of_one_seed, 0.0) < 0.75  # these intervals hold for the two networks, not for the methods


@pytest.mark.parametrize("effects", [{}, {"seeds": 3, "seed_sd": 0.3}])
def test_the_verdict_on_identical_models_is_cannot_tell(effects):
    categories = verdict_categories(simulate_differences(np.random.default_rng(2), 47, 0.0, **effects))
    assert categories.count("cannot tell") >= 0.95 * N_STUDIES


@pytest.mark.parametrize("effects", [{}, {"seeds": 3, "seed_sd": 0.1}])
def test_a_difference_of_one_decibel_is_detected(effects):
    categories = verdict_categories(simulate_differences(np.random.default_rng(3), 47, 1.0, **effects))
    assert categories.count("better") >= 0.9 * N_STUDIES
    assert "worse" not in categories


def test_the_detectable_difference_is_detected_in_four_of_five_studies():
    rng = np.random.default_rng(4)
    detectable = [difference.detectable for difference in simulate_differences(rng, 40, 0.0)]
    categories = verdict_categories(simulate_differences(rng, 40, float(np.mean(detectable))))
    assert categories.count("better") / N_STUDIES == pytest.approx(0.8, abs=0.07)


def test_a_difference_by_hand():
    candidate, reference = np.array([[2.0, 4, 6, np.nan], [4, 6, 8, 1]]), np.array([[1.0, 1, 1, 1]])
    result = statistics.compare_paired(candidate, reference)
    assert result.mean == 4  # (3 + 5 + 7) / 3 - 1
    assert (result.patients, result.seeds) == (3, (2, 1))
    assert result.p == 0.25  # three patients of one sign: 2 / 2^3
    same = statistics.compare_paired(reference, reference)
    assert (same.mean, same.low, same.high, same.p, same.detectable) == (0, 0, 0, 1, 0)
    with pytest.raises(ValueError, match="1 patients have a score by both"):
        statistics.compare_paired(reference[:, :1], reference[:, :1])


def test_the_detectable_difference_by_hand():
    """Four patients, differences 0, 0, 2, 2: SE = sqrt((4 / 3) / 4); t of 3 degrees: 3.182 and 0.978."""
    result = statistics.compare_paired(np.array([[0.0, 0, 2, 2]]), np.zeros((1, 4)))
    assert result.detectable == pytest.approx((3.1824 + 0.9785) * np.sqrt(1 / 3), abs=1e-3)
    among_five = statistics.compare_paired(np.array([[0.0, 0, 2, 2]]), np.zeros((1, 4)), family_size=5)
    assert among_five.detectable == pytest.approx((5.8409 + 0.9785) * np.sqrt(1 / 3), abs=1e-3)  # t at 0.995


def test_holm_by_hand():
    assert statistics.holm_correction([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm_correction([0.9, 0.8]) == [1, 1]
    assert statistics.holm_correction([]) == []


def difference(mean, low, high):
    return statistics.PairedDifference(mean, low, high, 0.001, 0.22, 47, (3, 3))


@pytest.mark.parametrize(
    ("result", "p_holm", "costs", "category"),
    [
        (difference(0.4, 0.1, 0.7), 0.01, {"time": 2.0}, "better"),
        (difference(0.4, 0.1, 0.7), 0.2, {}, "cannot tell"),  # not significant after correction
        (difference(-0.4, -0.7, -0.1), 0.01, {}, "worse"),
        (difference(0.0, -0.06, 0.06), 0.9, {"time": 1.3}, "not worth it"),
        (difference(0.0, -0.06, 0.06), 0.9, {"time": 0.5}, "cannot tell"),
        (difference(0.0, -0.3, 0.3), 0.9, {"time": 1.3}, "cannot tell"),
    ],
)
def test_verdicts(result, p_holm, costs, category):
    assert statistics.make_verdict("DiT", result, p_holm, "dB", 0.1, costs).category == category


def test_the_sentence_of_a_verdict():
    verdict = statistics.make_verdict(
        "DiT", difference(0.05, -0.11, 0.2), 0.5, "dB", 0.3, {"parameters": 2.4, "time": 1.3}
    )
    assert verdict.sentence == "DiT: +0.05 dB [-0.11, +0.20], 2.4 x parameters, 1.3 x time: not worth it here"
    verdict = statistics.make_verdict("DiT", difference(0.05, -0.11, 0.2), 0.5, "dB", 0.1, {})
    assert verdict.sentence == (
        "DiT: +0.05 dB [-0.11, +0.20]: cannot tell with 47 patients (a difference of 0.22 dB would have shown)"
    )


def test_bland_altman_by_hand():
    agreement = statistics.bland_altman([1.0, 3.0, 8.0, float("nan")], [2.0, 2.0, 5.0, 1.0])  # differences -1, 1, 3
    assert (agreement.bias, agreement.patients) == (1, 3)
    assert (agreement.limit_low, agreement.limit_high) == pytest.approx((1 - 1.96 * 2, 1 + 1.96 * 2), abs=1e-3)
    assert agreement.bias_low < 1 < agreement.bias_high
    assert statistics.bland_altman([1.0], [1.0]) is None


def median_width(differences):
    return np.median([difference.high - difference.low for difference in differences])


def test_shared_seeds_cover_with_narrower_intervals():
    """If seeds shift both methods alike, the interval of matched differences still covers, and is narrower."""
    rng = np.random.default_rng(6)
    matched, unmatched = [], []
    for _ in range(N_STUDIES):
        candidate, reference = simulate(rng, 47, 0.0, 3, 0.5, 0.0)
        shared_effects, separate_effects = rng.normal(size=(3, 1)), 0.1 * rng.normal(size=(2, 3, 1))
        pair = candidate + shared_effects + separate_effects[0], reference + shared_effects + separate_effects[1]
        matched.append(statistics.compare_paired(*pair, draws=DRAWS, same_seeds=True))
        unmatched.append(statistics.compare_paired(*pair, draws=DRAWS))
    assert coverage(matched, 0.0) >= 0.93
    assert median_width(matched) < 0.7 * median_width(unmatched)


def test_few_patients_cannot_show_any_difference():
    few = np.array([[1.0, 2, 3, 4]])
    result = statistics.compare_paired(few, few - 3)
    verdict = statistics.make_verdict("x", result, result.p, "dB", 0.1, {})
    assert verdict.sentence.endswith("cannot tell with 4 patients (so few patients cannot show a difference)")
    assert statistics.compare_paired(np.arange(12.0)[None], np.zeros((1, 12)), family_size=10).smallest_p == 10 / 2**11
