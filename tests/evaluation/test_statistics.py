import numpy as np
import pytest

from dsdiff.evaluation import statistics

COHORTS, QUICK = 500, 400


def simulate(rng, n, shift=0.0, seeds=1, patient_sd=1.0, seed_sd=0.0, noise=0.5):
    """Scores (s, p) of a candidate and a reference: patients differ, methods interact with patients, seeds shift all."""
    patients = 20 + 2 * rng.normal(size=n)
    runs = []
    for gain in (shift, 0.0):
        mine = patient_sd * rng.normal(size=n)
        each = seed_sd * rng.normal(size=(seeds, 1)) + noise * rng.normal(size=(seeds, n))
        runs.append(patients + gain + mine + each)
    return runs


def verdicts(rng, n, shift, **kind):
    found = [statistics.paired(*simulate(rng, n, shift, **kind), draws=QUICK) for _ in range(COHORTS)]
    return [statistics.verdict("x", one, one.p, "dB", 0.1, {}).word for one in found], found


def covered(found, truth):
    return np.mean([one.low <= truth <= one.high for one in found])


def test_intervals_hold_the_mean_and_leave_nan_out():
    mean, low, high = statistics.interval([1.0, 2.0, 3.0, float("nan")])
    assert mean == 2
    assert np.allclose([low, high], [2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5], atol=0.05)  # of three, Student's t
    assert np.isnan(statistics.interval([float("nan")])).all()
    mean, low, high = statistics.interval([0.71, float("nan")])
    assert (mean, np.isnan([low, high]).all()) == (0.71, True)  # one patient says nothing of others


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 12, 47])
def test_intervals_of_a_mean_cover_at_their_nominal_rate(n):
    rng = np.random.default_rng(n)
    drawn = [statistics.interval(rng.normal(0.7, 1, n).tolist(), k, QUICK) for k in range(2 * COHORTS)]
    assert 0.92 <= np.mean([low <= 0.7 <= high for _, low, high in drawn]) <= 0.98


@pytest.mark.parametrize("n", [3, 12, 47])
def test_intervals_cover_at_their_nominal_rate(n):
    _, found = verdicts(np.random.default_rng(n), n, 0.7)
    assert 0.92 <= covered(found, 0.7) <= 0.98


def test_intervals_cover_with_seeds_as_a_random_effect():
    rng = np.random.default_rng(1)
    _, found = verdicts(rng, 47, 0.0, seeds=3, patient_sd=0.5, seed_sd=0.5)
    assert 0.93 <= covered(found, 0.0) <= 0.99
    alone = [statistics.paired(*simulate(rng, 47, 0, 1, 0.5, 0.5), draws=QUICK) for _ in range(COHORTS)]
    assert covered(alone, 0.0) < 0.75  # one seed each: the interval holds for those networks, not for the methods


@pytest.mark.parametrize("kind", [{}, {"seeds": 3, "seed_sd": 0.3}])
def test_of_two_identical_models_it_cannot_tell(kind):
    words, _ = verdicts(np.random.default_rng(2), 47, 0.0, **kind)
    assert np.mean([word == "cannot tell" for word in words]) >= 0.95


@pytest.mark.parametrize("kind", [{}, {"seeds": 3, "seed_sd": 0.1}])
def test_a_planted_decibel_is_found(kind):
    words, _ = verdicts(np.random.default_rng(3), 47, 1.0, **kind)
    assert np.mean([word == "better" for word in words]) >= 0.9
    assert "worse" not in words


def test_the_detectable_difference_is_detected_as_often_as_it_says():
    rng = np.random.default_rng(4)
    _, found = verdicts(rng, 40, 0.0)
    words, _ = verdicts(rng, 40, float(np.mean([one.detectable for one in found])))
    assert np.mean([word == "better" for word in words]) == pytest.approx(0.8, abs=0.07)


def test_differences_by_hand():
    candidate, reference = np.array([[2.0, 4, 6, np.nan], [4, 6, 8, 1]]), np.array([[1.0, 1, 1, 1]])
    found = statistics.paired(candidate, reference)
    assert found.mean == 4  # (3 + 5 + 7) / 3 - 1
    assert (found.patients, found.seeds) == (3, (2, 1))
    assert found.p == 0.25  # three patients of one sign: 2 / 2^3
    same = statistics.paired(reference, reference)
    assert (same.mean, same.low, same.high, same.p, same.detectable) == (0, 0, 0, 1, 0)
    with pytest.raises(ValueError, match="1 patients have a score by both"):
        statistics.paired(reference[:, :1], reference[:, :1])


def test_detectable_by_hand():
    """Four patients, differences 0, 0, 2, 2: SE = sqrt((4 / 3) / 4); t of 3 degrees: 3.182 and 0.978."""
    found = statistics.paired(np.array([[0.0, 0, 2, 2]]), np.zeros((1, 4)))
    assert found.detectable == pytest.approx((3.1824 + 0.9785) * np.sqrt(1 / 3), abs=1e-3)
    among_five = statistics.paired(np.array([[0.0, 0, 2, 2]]), np.zeros((1, 4)), family=5)
    assert among_five.detectable == pytest.approx((5.8409 + 0.9785) * np.sqrt(1 / 3), abs=1e-3)  # t at 0.995


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1, 1]
    assert statistics.holm([]) == []


def difference(mean, low, high):
    return statistics.Difference(mean, low, high, 0.001, 0.22, 47, (3, 3))


@pytest.mark.parametrize(
    ("found", "p", "costs", "word"),
    [
        (difference(0.4, 0.1, 0.7), 0.01, {"time": 2.0}, "better"),
        (difference(0.4, 0.1, 0.7), 0.2, {}, "cannot tell"),  # another of the family may have been lucky
        (difference(-0.4, -0.7, -0.1), 0.01, {}, "worse"),
        (difference(0.0, -0.06, 0.06), 0.9, {"time": 1.3}, "not worth it"),
        (difference(0.0, -0.06, 0.06), 0.9, {"time": 0.5}, "cannot tell"),
        (difference(0.0, -0.3, 0.3), 0.9, {"time": 1.3}, "cannot tell"),
    ],
)
def test_verdicts(found, p, costs, word):
    assert statistics.verdict("DiT", found, p, "dB", 0.1, costs).word == word


def test_verdicts_are_one_sentence():
    said = statistics.verdict("DiT", difference(0.05, -0.11, 0.2), 0.5, "dB", 0.3, {"parameters": 2.4, "time": 1.3})
    assert said.sentence == "DiT: +0.05 dB [-0.11, +0.20], 2.4 x parameters, 1.3 x time: not worth it here"
    said = statistics.verdict("DiT", difference(0.05, -0.11, 0.2), 0.5, "dB", 0.1, {})
    assert said.sentence == (
        "DiT: +0.05 dB [-0.11, +0.20]: cannot tell with 47 patients (a difference of 0.22 dB would have shown)"
    )


def test_bland_altman_by_hand():
    found = statistics.agreement([1.0, 3.0, 8.0, float("nan")], [2.0, 2.0, 5.0, 1.0])  # differences -1, 1, 3
    assert (found.bias, found.patients) == (1, 3)
    assert (found.limit_low, found.limit_high) == pytest.approx((1 - 1.96 * 2, 1 + 1.96 * 2), abs=1e-3)
    assert found.bias_low < 1 < found.bias_high
    assert statistics.agreement([1.0], [1.0]) is None


def test_shared_seeds_cover_and_tell_more():
    """Seeds that shift both alike: the interval of the matched differences still covers, and is narrower."""
    rng, matched, apart = np.random.default_rng(6), [], []
    for _ in range(COHORTS):
        ours, theirs = simulate(rng, 47, 0.0, 3, 0.5, 0.0)
        shared, own = rng.normal(size=(3, 1)), 0.1 * rng.normal(size=(2, 3, 1))
        pair = ours + shared + own[0], theirs + shared + own[1]
        matched.append(statistics.paired(*pair, draws=QUICK, same_seeds=True))
        apart.append(statistics.paired(*pair, draws=QUICK))
    assert covered(matched, 0.0) >= 0.93
    assert np.median([one.high - one.low for one in matched]) < 0.7 * np.median([one.high - one.low for one in apart])


def test_of_few_patients_nothing_is_said_to_have_shown():
    few = np.array([[1.0, 2, 3, 4]])
    found = statistics.paired(few, few - 3)
    said = statistics.verdict("x", found, found.p, "dB", 0.1, {})
    assert said.sentence.endswith("cannot tell with 4 patients (so few show no difference, however large)")
    assert statistics.paired(np.arange(12.0)[None], np.zeros((1, 12)), family=10).least_p == 10 / 2**11
