"""Tables of `eval_real.py`: scores of each patient as text, and the summary over patients as Markdown."""

from collections.abc import Mapping

import numpy as np

from dsdiff.evaluation import statistics
from dsdiff.evaluation.brain_scores import SCORE_DESCRIPTIONS
from dsdiff.evaluation.results import average_visits

MODEL = "model"
EXTRA_DESCRIPTIONS = {
    "slice_jumps": "steps between axial slices relative to the truth (1: as the truth; above: steps between slices)",
    "false_ml": "false enhancement, ml",
    "error_surface": "fraction of the squared error (after the linear map) within 4 mm of the brain's surface",
    "error_enhancing": "fraction of it where the truth enhances by 1.5 or more, vessels and meninges included",
    "coverage_80": "fraction of the brain's voxels within the 80 % interval of the predicted standard deviation",
    "error_correlation": "rank correlation of error and predicted standard deviation in the brain",
}
DESCRIPTIONS = SCORE_DESCRIPTIONS | EXTRA_DESCRIPTIONS
COLUMN_TITLES = {name: name for name in DESCRIPTIONS} | {"enhancement_recovery": "recovery"}
Scores = dict[str, dict[str, float]]  # method -> score -> value


def format_patient(patient: str, scores: Scores) -> str:
    """Format every score of one patient, one line per method."""
    lines = []
    for method, values in scores.items():
        lines.append(f"{patient:22} {method:20}" + "".join(f"{values[name]:12.3f}" for name in DESCRIPTIONS))
    return "\n".join(lines)


def format_summary(results: Mapping[str, Scores], split_label: str) -> str:
    """Format the summary as Markdown: means, differences to the other methods, definitions, false enhancement."""
    definitions = "\n".join(f"- `{COLUMN_TITLES[name]}`: {text}" for name, text in DESCRIPTIONS.items())
    title = f"{len(results)} patients{split_label}, each scored by a model that never saw it."
    parts = [title, format_means(results), format_differences(results), definitions, format_false_enhancement(results)]
    return "\n\n".join(parts)


def format_means(results: Mapping[str, Scores]) -> str:
    """Format means with 95 % intervals over patients and the standard deviation between patients."""
    lines = table_heading("mean [95 % interval] SD")
    for method in next(iter(results.values())):
        cells = []
        for name in DESCRIPTIONS:
            values = values_by_patient(results, method, name)
            finite = [value for value in values if np.isfinite(value)]
            number_format = ".1f" if name.startswith("psnr") else ".2f"
            deviation = f" {np.std(finite, ddof=1):{number_format}}" if len(finite) > 1 else ""
            cells.append(format_interval(values, number_format) + deviation)
        lines.append(f"| {method} | {' | '.join(cells)} |")

    counts = [int(np.isfinite(values_by_patient(results, MODEL, name)).sum()) for name in DESCRIPTIONS]
    lines.append(f"| patients scored | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def format_differences(results: Mapping[str, Scores]) -> str:
    """Format the model minus every other method, patient by patient: means with 95 % intervals."""
    lines = table_heading("model minus")
    for method in list(next(iter(results.values())))[1:]:
        cells = []
        for name in DESCRIPTIONS:
            pairs = zip(values_by_patient(results, MODEL, name), values_by_patient(results, method, name), strict=True)
            cells.append(format_interval([model_value - value for model_value, value in pairs], "+.2f"))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_heading(first: str) -> list[str]:
    """Return the first two lines of a table with one column per score."""
    return [f"| {first} | {' | '.join(COLUMN_TITLES.values())} |", "|---" * (len(DESCRIPTIONS) + 1) + "|"]


def values_by_patient(results: Mapping[str, Scores], method: str, name: str) -> list[float]:
    """Return one score of every patient, averaged over visits.

    Patients are in the order of names, as in `dsdiff evaluate`, so that both draw the same bootstrap.
    """
    scores_by_case = {case: results[case][method] for case in sorted(results)}
    return [scores[name] for scores in average_visits(scores_by_case).values()]


def format_interval(values: list[float], number_format: str) -> str:
    """Format mean and interval; without an interval the mean only, and without a mean an empty text."""
    interval = statistics.confidence_interval(values)
    mean, low, high = (f"{value:{number_format}}" if np.isfinite(value) else "" for value in interval)
    return f"{mean} [{low}, {high}]" if low and high else mean


def format_false_enhancement(results: Mapping[str, Scores]) -> str:
    """Format the false enhancement of each patient without enhancing tumour, or with too little to be scored."""
    texts = []
    for name, scores in results.items():
        if not np.isfinite(scores[MODEL]["auc_tumour"]):
            texts.append(f"{name} {scores[MODEL]['false_ml']:.2f} ml")
    return f"False enhancement in patients without enhancing tumour: {', '.join(texts) or 'no such patient'}"
