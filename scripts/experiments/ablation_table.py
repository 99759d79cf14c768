"""The table of ablation.py: means of every arm, and differences to the first arm."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dsdiff.evaluation import statistics
from dsdiff.evaluation.brain_scores import SCORE_DESCRIPTIONS
from dsdiff.evaluation.statistics import PairedDifference

SIGNIFICANCE = 0.05
PatientScores = dict[str, dict[str, float]]  # patient -> score -> value
ScoresBySeed = dict[int, PatientScores]


def collect_scores(contents: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, ScoresBySeed], dict[str, float]]:
    """Collect the scores of all trainings.

    Args:
        contents: "ARM/seedS/foldF" -> content of scores.json.

    Returns:
        Arm and variant -> seed -> patient -> score -> value; and arm -> mean CPU minutes of a training.
    """
    scores: dict[str, ScoresBySeed] = {}
    minutes: dict[str, list[float]] = {}
    for run, content in contents.items():
        arm, seed_folder, _ = run.rsplit("/", 2)
        seed = int(seed_folder.removeprefix("seed"))
        minutes.setdefault(arm, []).append(content["minutes"])
        for variant, patient_scores in content["variants"].items():
            scores.setdefault(arm + variant, {}).setdefault(seed, {}).update(patient_scores)
    return scores, {arm: float(np.mean(values)) for arm, values in minutes.items()}


def score_matrix(scores: ScoresBySeed, seeds: Sequence[int], patients: Sequence[str], score: str) -> np.ndarray:
    """Arrange one score as a matrix.

    Args:
        scores: Scores of one arm.
        seeds: The rows.
        patients: The columns.
        score: Name of the score.

    Returns:
        Seeds x patients, NaN for a missing value.
    """
    matrix = np.full((len(seeds), len(patients)), np.nan)
    for row, seed in enumerate(seeds):
        for column, patient in enumerate(patients):
            matrix[row, column] = scores[seed].get(patient, {}).get(score, np.nan)
    return matrix


def list_patients(scores: ScoresBySeed) -> list[str]:
    """List the patients of an arm.

    Args:
        scores: Scores of one arm.

    Returns:
        Sorted names of all patients with scores.
    """
    return sorted({patient for patient_scores in scores.values() for patient in patient_scores})


def render_table(scores: dict[str, ScoresBySeed], minutes: Mapping[str, float], title: str, reference: str) -> str:
    """Render means over patients, and differences to the reference under the seeds of both.

    Args:
        scores: Arm -> scores.
        minutes: Arm -> mean CPU minutes of a training.
        title: Start of the first line.
        reference: Name of the arm to compare with.

    Returns:
        Two Markdown tables.
    """
    arms = sorted(scores, key=lambda arm: arm != reference)  # stable: the reference comes first
    counts = ", ".join(f"{arm} {len(list_patients(scores[arm]))} x {len(scores[arm])}" for arm in arms)
    columns = " | ".join(SCORE_DESCRIPTIONS)
    rule = "|---" * (len(SCORE_DESCRIPTIONS) + 1)
    lines = [f"{title}; patients x seeds: {counts}", ""]
    lines += [f"| mean [95 % interval] | {columns} | CPU min |", f"{rule}|---|"]
    for arm in arms:
        cells = [mean_cell(scores[arm], score) for score in SCORE_DESCRIPTIONS]
        lines.append(f"| {arm} | {' | '.join(cells)} | {minutes.get(arm, float('nan')):.1f} |")

    lines += ["", f"| minus {reference}, patient by patient | {columns} |", f"{rule}|"]
    compared_arms = [arm for arm in arms if arm != reference]
    if reference in scores:
        cells_by_score = {
            score: difference_cells(scores, compared_arms, reference, score) for score in SCORE_DESCRIPTIONS
        }
        for k, arm in enumerate(compared_arms):
            lines.append(f"| {arm} | {' | '.join(cells[k] for cells in cells_by_score.values())} |")
    lines += ["", "Bold: the interval excludes 0, and p after Holm's correction over the rows is below 0.05."]
    return "\n".join(lines)


def mean_cell(scores: ScoresBySeed, score: str) -> str:
    """Format the mean of a score over patients, averaged over seeds.

    Args:
        scores: Scores of one arm.
        score: Name of the score.

    Returns:
        Mean and interval.
    """
    matrix = score_matrix(scores, sorted(scores), list_patients(scores), score)
    return format_interval(*statistics.confidence_interval(matrix.mean(0).tolist()), score)


def difference_cells(scores: dict[str, ScoresBySeed], arms: Sequence[str], reference: str, score: str) -> list[str]:
    """Format the differences of arms to the reference, on the patients and under the seeds of both.

    Args:
        scores: Arm -> scores.
        arms: The arms to compare.
        reference: Name of the arm to compare with.
        score: Name of the score.

    Returns:
        One cell for each arm; "-" if fewer than two patients have the score.
    """
    differences = []
    for arm in arms:
        reference_patients = set(list_patients(scores[reference]))
        patients = [patient for patient in list_patients(scores[arm]) if patient in reference_patients]
        seeds = sorted(set(scores[arm]) & set(scores[reference]))
        matrices = [score_matrix(scores[name], seeds, patients, score) for name in (arm, reference)]
        try:
            differences.append(statistics.compare_paired(*matrices, family_size=len(arms), same_seeds=True))
        except ValueError:  # fewer than two patients have the score
            return ["-"] * len(arms)

    p_values = statistics.holm_correction([difference.p for difference in differences])
    return [difference_cell(d, p, score) for d, p in zip(differences, p_values, strict=True)]


def difference_cell(difference: PairedDifference, p_holm: float, score: str) -> str:
    """Format a difference, in bold if it is significant.

    Args:
        difference: The difference.
        p_holm: Its p after Holm's correction.
        score: Name of the score.

    Returns:
        Mean and interval.
    """
    cell = format_interval(difference.mean, difference.low, difference.high, score)
    is_significant = p_holm < SIGNIFICANCE and not difference.low <= 0 <= difference.high
    return f"**{cell}**" if is_significant else cell


def format_interval(mean: float, low: float, high: float, score: str) -> str:
    """Format a mean and its interval.

    Args:
        mean: The mean.
        low: Lower bound.
        high: Upper bound.
        score: Name of the score, which determines the number of decimals.

    Returns:
        "mean [low, high]".
    """
    decimals = 2 if score.startswith("psnr") else 3
    return f"{mean:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"
