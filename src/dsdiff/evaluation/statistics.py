"""Statistics over patients: confidence intervals, paired differences, Holm's correction, verdicts, Bland-Altman.

Patients are the units that are resampled. If a method was trained with several seeds, the seeds are a random effect:
each bootstrap draw resamples the patients' mean differences and adds the effect of other seeds. That effect is a
Student t variable with the variance of the seeds' means over the number of seeds. If both methods have the same seeds,
three or more, the variance is that of their differences, since a seed gives both the same batches. So a method with
lucky seeds is not called better, and more patients cannot make up for few seeds. With one seed this part is unknown and
left out; the verdict then holds only for those two networks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

CONFIDENCE, POWER = 0.95, 0.8
BOOTSTRAP_DRAWS = 2000
MIN_BOOTSTRAP_PATIENTS = 6  # fewer get Student's t: means of bootstrap draws never leave the range of the data
MIN_SHARED_SEEDS = 3  # fewer are not compared seed by seed: Student's t of two is too wide
MIN_COST_RATIO = 1.05  # a candidate that costs less than 5 % more costs the same
CandidateScores = Float[np.ndarray, "s p"]  # one score under every seed, of every patient
ReferenceScores = Float[np.ndarray, "r p"]  # the same patients, another number of seeds


@dataclass(frozen=True)
class PairedDifference:
    """Candidate minus reference over patients.

    Attributes:
        mean: Mean difference.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        p: Two-sided Wilcoxon signed-rank test of the patients' differences, averaged over seeds.
        detectable: Smallest true difference that this study would find in 80 % of repetitions.
        patients: Number of patients with a score by both methods.
        seeds: Number of seeds of candidate and reference.
        smallest_p: p after Holm's first step if all differences had one sign: the smallest that is possible.
    """

    mean: float
    low: float
    high: float
    p: float
    detectable: float
    patients: int
    seeds: tuple[int, int]
    smallest_p: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """`category` is better, worse, not worth it, or cannot tell; `sentence` adds the numbers."""

    category: str
    sentence: str


@dataclass(frozen=True)
class BlandAltman:
    """Mean difference (synthetic minus acquired) with its 95 % interval, and the limits that hold 95 % of patients."""

    bias: float
    bias_low: float
    bias_high: float
    limit_low: float
    limit_high: float
    patients: int


def confidence_interval(
    values: Sequence[float], seed: int = 0, draws: int = BOOTSTRAP_DRAWS
) -> tuple[float, float, float]:
    """Compute the mean over patients and its 95 % interval: bootstrap, or Student's t for few patients.

    Args:
        values: One value per patient; NaN is left out.
        seed: Seed of the bootstrap.
        draws: Number of bootstrap draws.

    Returns:
        Mean, lower end, upper end. All are NaN without values; the ends are NaN for one patient.
    """
    finite = np.array([value for value in values if np.isfinite(value)])
    if len(finite) < 2:
        return (float(finite.mean()) if len(finite) else float("nan"), float("nan"), float("nan"))
    means = _draw_means(finite, np.random.default_rng(seed), draws)
    low, high = np.quantile(means, _interval_quantiles(len(finite)))
    return float(finite.mean()), float(low), float(high)


def _draw_means(values: Float[np.ndarray, " p"], rng: np.random.Generator, draws: int) -> Float[np.ndarray, " d"]:
    """Draw means by the bootstrap; for few patients quantiles of Student's t around the mean, in random order."""
    n = len(values)
    if n < MIN_BOOTSTRAP_PATIENTS:
        return values.mean() + stats.sem(values) * stats.t.ppf((rng.permutation(draws) + 0.5) / draws, n - 1)
    return values[rng.integers(len(values), size=(draws, len(values)))].mean(1)


def compare_paired(
    candidate: CandidateScores,
    reference: ReferenceScores,
    family_size: int = 1,
    seed: int = 0,
    draws: int = BOOTSTRAP_DRAWS,
    same_seeds: bool = False,
) -> PairedDifference:
    """Compare two methods on the same patients by a score of which more is better (negate other scores).

    Bootstrap quantiles are those of the expanded percentile interval, which small studies need. Fewer than
    MIN_BOOTSTRAP_PATIENTS patients get Student's t.

    Args:
        candidate: Scores of the candidate, seeds by patients. Patients with a NaN are left out.
        reference: Scores of the reference, seeds by patients; the number of seeds may differ.
        family_size: Number of candidates that are tested together, for `detectable` and `smallest_p`.
        seed: Seed of the bootstrap.
        draws: Number of bootstrap draws.
        same_seeds: Whether the rows of both are the same seeds in the same order.

    Returns:
        The difference, candidate minus reference.

    Raises:
        ValueError: Fewer than two patients have a score by both methods.

    Source: Hesterberg 2015 (arXiv 1411.5279), section 4.3; Welch-Satterthwaite degrees of freedom for the seeds.
    """
    is_scored = np.isfinite(candidate).all(0) & np.isfinite(reference).all(0)
    n = int(is_scored.sum())
    if n < 2:
        raise ValueError(f"{n} patients have a score by both methods; two at least are needed")
    candidate_runs, reference_runs = candidate[:, is_scored], reference[:, is_scored]
    differences = candidate_runs.mean(0) - reference_runs.mean(0)

    # Variance of the mean difference by the choice of seeds, in independent parts.
    if same_seeds and len(candidate_runs) >= MIN_SHARED_SEEDS:
        variances = [_seed_variance(candidate_runs - reference_runs)]
    else:
        variances = [_seed_variance(candidate_runs), _seed_variance(reference_runs)]
    seed_variances = [variance for variance in variances if variance]

    rng = np.random.default_rng(seed)
    means = _draw_means(differences, rng, draws)
    if seed_variances:
        variance, freedom = _welch_satterthwaite(seed_variances)
        means = means + np.sqrt(variance) * rng.standard_t(freedom, draws)
    low, high = np.quantile(means, _interval_quantiles(n))

    patient_variance = (float(differences.var(ddof=1)) / n, n - 1)
    return PairedDifference(
        mean=float(differences.mean()),
        low=float(low),
        high=float(high),
        p=_wilcoxon_p(differences),
        detectable=_detectable_difference([patient_variance, *seed_variances], family_size),
        patients=n,
        seeds=(len(candidate_runs), len(reference_runs)),
        smallest_p=family_size * 2.0 ** (1 - n),
    )


def _seed_variance(runs: CandidateScores) -> tuple[float, int] | None:
    """Return the variance of a mean by the choice of seeds, and its degrees of freedom; None for one seed."""
    n_seeds = len(runs)
    variance = float(runs.mean(1).var(ddof=1)) / n_seeds if n_seeds > 1 else 0.0
    return (variance, n_seeds - 1) if variance > 0 else None


def _welch_satterthwaite(variances: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Return the sum of independent variances and its effective degrees of freedom (Welch-Satterthwaite)."""
    total = sum(variance for variance, _ in variances)
    if total == 0:
        return 0.0, float(variances[0][1])
    return total, total**2 / sum(variance**2 / freedom for variance, freedom in variances)


def _interval_quantiles(n: int) -> tuple[float, float]:
    """Return the quantiles of bootstrap means of n patients that are as far apart as Student's t has them."""
    if n < MIN_BOOTSTRAP_PATIENTS:
        return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    tail = float(stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf((1 - CONFIDENCE) / 2, n - 1)))
    return tail, 1 - tail


def _wilcoxon_p(differences: Float[np.ndarray, " p"]) -> float:
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


def _detectable_difference(variances: Sequence[tuple[float, int]], family_size: int) -> float:
    """Return the smallest true difference that such a study finds in 80 % of repetitions.

    The test is Holm's first step: two-sided, at 5 % over the family.
    """
    variance, freedom = _welch_satterthwaite(variances)
    needed = stats.t.isf((1 - CONFIDENCE) / (2 * family_size), freedom) + stats.t.ppf(POWER, freedom)
    return float(needed * np.sqrt(variance))


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of a family, so that the chance of any false finding stays at its level.

    Args:
        p_values: The p-values of all tests of the family.

    Returns:
        The adjusted p-values in the same order, at most 1.

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    order = np.argsort(p_values)
    scaled = np.asarray(p_values, float)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()


def make_verdict(
    name: str,
    difference: PairedDifference,
    p_holm: float,
    unit: str,
    relevant_difference: float,
    costs: Mapping[str, float],
) -> Verdict:
    """Judge a candidate against the reference.

    better: the interval lies above 0 and Holm's p is below 0.05. worse: the interval lies below 0, likewise.
    not worth it: neither, the upper end of the interval is below the relevant difference, and something costs 5 % more
    or beyond. cannot tell: all else.

    Args:
        name: The candidate.
        difference: Candidate minus reference.
        p_holm: p-value after Holm's correction.
        unit: Unit of the score.
        relevant_difference: Smallest difference that matters.
        costs: Kind of cost -> multiple of the reference's, as in {"parameters": 2.4}.

    Returns:
        The verdict, with one sentence.
    """
    is_significant = p_holm < 1 - CONFIDENCE
    if is_significant and difference.low > 0:
        category = "better"
    elif is_significant and difference.high < 0:
        category = "worse"
    elif difference.high < relevant_difference and any(ratio >= MIN_COST_RATIO for ratio in costs.values()):
        category = "not worth it"
    else:
        category = "cannot tell"

    price = "".join(f", {ratio:.1f} x {kind}" for kind, ratio in costs.items())
    numbers = f"{difference.mean:+.2f} {unit} [{difference.low:+.2f}, {difference.high:+.2f}]"
    return Verdict(category, f"{name}: {numbers}{price}: {_describe_category(category, difference, unit)}")


def _describe_category(category: str, difference: PairedDifference, unit: str) -> str:
    """Return the last part of a verdict's sentence."""
    if category == "not worth it":
        return "not worth it here"
    if category != "cannot tell":
        return category
    if difference.smallest_p >= 1 - CONFIDENCE:
        reason = "so few patients cannot show a difference"
    else:
        reason = f"a difference of {difference.detectable:.2f} {unit} would have shown"
    return f"cannot tell with {difference.patients} patients ({reason})"


def bland_altman(synthetic: Sequence[float], acquired: Sequence[float]) -> BlandAltman | None:
    """Compute the agreement of two measurements of the same patients.

    Args:
        synthetic: One value per patient, NaN if there is none.
        acquired: One value per patient, in the same order.

    Returns:
        Bias and limits of agreement, synthetic minus acquired; None if fewer than two patients have both values.

    Source: Bland and Altman 1986 (doi:10.1016/S0140-6736(86)90837-8).
    """
    differences = np.asarray(synthetic, float) - np.asarray(acquired, float)
    differences = differences[np.isfinite(differences)]
    if len(differences) < 2:
        return None
    bias, low, high = confidence_interval(differences.tolist())
    half_width = float(stats.norm.ppf((1 + CONFIDENCE) / 2) * differences.std(ddof=1))
    return BlandAltman(bias, low, high, bias - half_width, bias + half_width, len(differences))
