"""What a cohort can tell: intervals, paired differences, the smallest difference it could have shown, and a verdict.

Patients are the units: they are what is resampled. Where a method was trained with several seeds, the seeds are a
random effect: every bootstrap draw resamples the patients' mean differences and adds what other seeds would have
changed, a Student t variable with the variance of the seeds' means over the number of seeds. Where both methods have
the same seeds, three or more, it is the variance of their differences: a seed gives both the same batches. So a method
that was lucky with its seeds is not called better, and more patients cannot make up for few seeds. With one seed that
part is unknown and left out: the verdict then holds for those very networks only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

LEVEL, POWER = 0.95, 0.8
DRAWS = 2000
FEW = 6  # patients, below which Student's t is taken: means of bootstrap draws never leave the range of the data
MATCHED = 3  # seeds that both methods share, from which on they are compared seed by seed: of two t is too wide
Runs = Float[np.ndarray, "s p"]  # one score of every patient under every seed
OtherRuns = Float[np.ndarray, "r p"]  # the same patients, another number of seeds


@dataclass(frozen=True)
class Difference:
    """Candidate minus reference over patients, with its interval; `detectable` is what the cohort could have shown."""

    mean: float
    low: float
    high: float
    p: float  # Wilcoxon signed-rank, two-sided, of the patients' differences averaged over seeds
    detectable: float
    patients: int
    seeds: tuple[int, int]  # of candidate and reference
    least_p: float = 0.0  # after Holm's first step, were all patients of one sign: what so few can give at best


@dataclass(frozen=True)
class Verdict:
    """`word` is better, worse, not worth it, or cannot tell; `sentence` says it with its numbers."""

    word: str
    sentence: str


@dataclass(frozen=True)
class Agreement:
    """Bland-Altman: mean difference (made minus true) with its interval, and the limits that hold 95 % of patients."""

    bias: float
    bias_low: float
    bias_high: float
    limit_low: float
    limit_high: float
    patients: int


def interval(values: Sequence[float], seed: int = 0, draws: int = DRAWS) -> tuple[float, float, float]:
    """Mean and 95 % interval over patients, NaN left out: a bootstrap, or of few Student's t, as in `paired`.

    NaN without a value; of one patient there is a mean and no interval.
    """
    finite = np.array([value for value in values if np.isfinite(value)])
    if len(finite) < 2:
        return (float(finite.mean()) if len(finite) else float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(_means(finite, np.random.default_rng(seed), draws), _expanded(len(finite)))
    return float(finite.mean()), float(low), float(high)


def _means(values: Float[np.ndarray, " p"], rng: np.random.Generator, draws: int) -> Float[np.ndarray, " d"]:
    """Means of bootstrap draws; of few patients Student's t about the mean, in random order."""
    n = len(values)
    if n < FEW:
        return values.mean() + stats.sem(values) * stats.t.ppf((rng.permutation(draws) + 0.5) / draws, n - 1)
    return values[rng.integers(len(values), size=(draws, len(values)))].mean(1)


def paired(
    candidate: Runs,
    reference: OtherRuns,
    family: int = 1,
    seed: int = 0,
    draws: int = DRAWS,
    same_seeds: bool = False,
) -> Difference:
    """Compare two methods on the same patients, scores for which more is better (negate the others).

    Rows are seeds (the two may have different numbers), columns patients; patients with a NaN are left out. same_seeds:
    the rows of both are the same seeds in the same order. family: how many candidates are judged together, which
    `detectable` has to reckon with. The bootstrap quantiles are those of the expanded percentile interval, which small
    cohorts need; those under FEW patients get Student's t. Raises `ValueError` where fewer than two patients are left.

    Source: Hesterberg 2015 (arXiv 1411.5279), section 4.3; Welch-Satterthwaite degrees of freedom for the seeds.
    """
    kept = np.isfinite(candidate).all(0) & np.isfinite(reference).all(0)
    n = int(kept.sum())
    if n < 2:
        raise ValueError(f"{n} patients have a score by both methods; two at least are needed")
    ours, theirs = candidate[:, kept], reference[:, kept]
    differences = ours.mean(0) - theirs.mean(0)
    matched = same_seeds and len(ours) >= MATCHED
    parts = [part for runs in ([ours - theirs] if matched else [ours, theirs]) if (part := _seed_variance(runs))]
    rng = np.random.default_rng(seed)
    drawn = _means(differences, rng, draws)
    if parts:
        noise, freedom = _welch(parts)
        drawn = drawn + np.sqrt(noise) * rng.standard_t(freedom, draws)
    low, high = np.quantile(drawn, _expanded(n))
    return Difference(
        mean=float(differences.mean()),
        low=float(low),
        high=float(high),
        p=_wilcoxon(differences),
        detectable=_detectable([(float(differences.var(ddof=1)) / n, n - 1), *parts], family),
        patients=n,
        seeds=(len(ours), len(theirs)),
        least_p=family * 2.0 ** (1 - n),
    )


def _seed_variance(runs: Runs) -> tuple[float, int] | None:
    """Variance that the choice of seeds gives a mean, and its degrees of freedom; None for one seed."""
    s = len(runs)
    variance = float(runs.mean(1).var(ddof=1)) / s if s > 1 else 0.0
    return (variance, s - 1) if variance > 0 else None


def _welch(parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Sum of independent variances and its effective degrees of freedom (Welch-Satterthwaite)."""
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0, float(parts[0][1])
    return total, total**2 / sum(variance**2 / freedom for variance, freedom in parts)


def _expanded(n: int) -> tuple[float, float]:
    """Quantiles of what is drawn for n patients that are as wide as Student's t is."""
    if n < FEW:
        return (1 - LEVEL) / 2, (1 + LEVEL) / 2
    tail = float(stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf((1 - LEVEL) / 2, n - 1)))
    return tail, 1 - tail


def _wilcoxon(differences: Float[np.ndarray, " p"]) -> float:
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


def _detectable(parts: Sequence[tuple[float, int]], family: int) -> float:
    """Smallest true difference that Holm's first step, a two-sided test at 5 % over the family, finds in 80 % of such
    cohorts."""
    variance, freedom = _welch(parts)
    needed = stats.t.isf((1 - LEVEL) / (2 * family), freedom) + stats.t.ppf(POWER, freedom)
    return float(needed * np.sqrt(variance))


def holm(p: Sequence[float]) -> list[float]:
    """p-values of a family, adjusted so that the chance of any false finding stays at its level.

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    order = np.argsort(p)
    scaled = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()


def verdict(
    name: str, found: Difference, p_holm: float, unit: str, matters: float, costs: Mapping[str, float]
) -> Verdict:
    """One sentence on a candidate.

    better: the interval lies above 0 and Holm's p is below 0.05; worse: below 0, likewise. Otherwise: not worth it,
    where even the upper end of the interval is less than what matters and something costs 5 % more or beyond; else
    cannot tell.

    costs: what it costs, as multiples of the reference ("parameters": 2.4).
    """
    sure = p_holm < 1 - LEVEL
    if sure and found.low > 0:
        word = "better"
    elif sure and found.high < 0:
        word = "worse"
    elif found.high < matters and any(times >= 1.05 for times in costs.values()):
        word = "not worth it"
    else:
        word = "cannot tell"
    price = "".join(f", {times:.1f} x {what}" for what, times in costs.items())
    shown = f"a difference of {found.detectable:.2f} {unit} would have shown"
    if found.least_p >= 1 - LEVEL:
        shown = "so few show no difference, however large"
    cannot = f"cannot tell with {found.patients} patients ({shown})"
    telling = {"not worth it": "not worth it here", "cannot tell": cannot}.get(word, word)
    numbers = f"{found.mean:+.2f} {unit} [{found.low:+.2f}, {found.high:+.2f}]"
    return Verdict(word, f"{name}: {numbers}{price}: {telling}")


def agreement(made: Sequence[float], true: Sequence[float]) -> Agreement | None:
    """Bland-Altman of two measurements of the same patients; None where fewer than two have both.

    Source: Bland and Altman 1986 (doi:10.1016/S0140-6736(86)90837-8).
    """
    differences = np.asarray(made, float) - np.asarray(true, float)
    differences = differences[np.isfinite(differences)]
    if len(differences) < 2:
        return None
    bias, low, high = interval(differences.tolist())
    half = float(stats.norm.ppf((1 + LEVEL) / 2) * differences.std(ddof=1))
    return Agreement(bias, low, high, bias - half, bias + half, len(differences))
