"""Results of an evaluation: scores of every patient, their summary, and the files `patients.csv` and `summary.json`."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dsdiff.evaluation import calibration, patient_scores, statistics
from dsdiff.evaluation.pairing import Pairing
from dsdiff.evaluation.protocols import PROTOCOLS
from dsdiff.io.file_names import patient_id
from dsdiff.system import version
from dsdiff.system.console import ProgressCallback, ignore_progress
from dsdiff.system.json_cache import replace_nan
from dsdiff.system.unicode_names import to_unicode, to_unicode_values

FILE_KIND = "scores of synthetic contrast-enhanced MRI by dsdiff evaluate"
Scores = dict[str, float]
Summary = dict[str, dict[str, float | int]]  # score -> n, mean, low, high, sd, median, min, max


@dataclass(frozen=True)
class Results:
    """Scores of all cases.

    Attributes:
        protocol: Name of the protocol for similarity.
        fit: Whether the best linear intensity map was removed.
        patients: Case -> scores by name.
        failures: Case -> why it could not be scored.
        missing_predictions: Acquired cases without a synthetic T1ce.
        models: Name and hash of the models, from the provenance of the volumes.
        warnings: Warning about the files of a case, or in the provenance of its synthetic T1ce -> cases.
    """

    protocol: str
    fit: bool
    patients: dict[str, Scores] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    missing_predictions: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def n_patients(self) -> int:
        """Number of patients with scores.

        Returns:
            The number; visits of one patient count once.
        """
        return len({*map(patient_id, self.patients)})

    @property
    def main_score(self) -> str:
        """The similarity score that ranks patients if enhancement cannot.

        Returns:
            PSNR of the widest region of the protocol.
        """
        return f"psnr_{PROTOCOLS[self.protocol].widest_region}"

    def values(self, name: str) -> list[float]:
        """Return one score of every case.

        Args:
            name: The score.

        Returns:
            One value per case; NaN if a case lacks it.
        """
        return [scores.get(name, float("nan")) for scores in self.patients.values()]

    def values_by_patient(self, name: str) -> list[float]:
        """Return one score of every patient.

        Args:
            name: The score.

        Returns:
            One value per patient, the mean of several visits; NaN if a patient lacks it.
        """
        return [scores.get(name, float("nan")) for scores in average_visits(self.patients).values()]

    def score_names(self) -> list[str]:
        """List every score that some patient has.

        Returns:
            Names in the order of scoring.
        """
        return list(dict.fromkeys(name for scores in self.patients.values() for name in scores))

    def infinite_scores(self) -> dict[str, list[str]]:
        """List the infinite scores: PSNR of images that are identical up to an intensity scale.

        Returns:
            Case -> names of its infinite scores. No mean holds an infinite score.
        """
        scores_by_case = {}
        for case, scores in self.patients.items():
            if infinite := [name for name, score in scores.items() if np.isinf(score)]:
                scores_by_case[case] = infinite
        return scores_by_case

    def with_tumour_auc(self) -> list[str]:
        """List the cases whose AUC in the tumour is known.

        Returns:
            Case names, worst AUC first.
        """
        auc = {name: scores.get("auc_tumour", float("nan")) for name, scores in self.patients.items()}
        return sorted((name for name in auc if np.isfinite(auc[name])), key=auc.__getitem__)

    def without_segmentation(self) -> list[str]:
        """List the cases without a segmented tumour: without a file, or with an empty one.

        Returns:
            Case names.
        """
        return [name for name, scores in self.patients.items() if np.isnan(scores.get("lesions", 0.0))]

    def without_tumour_auc(self) -> list[str]:
        """List the cases whose AUC in the tumour is unknown.

        Returns:
            Case names, worst first: by false enhancement, then by similarity. If no case has an AUC, only by
            similarity: without segmentations, vessels and tumour look alike.
        """
        with_auc = self.with_tumour_auc()

        def rank(name: str) -> tuple[float, float]:
            false_ml = self.patients[name].get("false_ml", 0.0) if with_auc else 0.0
            return -false_ml, self.patients[name][self.main_score]

        return sorted(set(self.patients) - set(with_auc), key=rank)

    def worst_first(self) -> list[str]:
        """List all cases with scores, worst first.

        Returns:
            Case names: those with an AUC in the tumour, then those without.
        """
        return [*self.with_tumour_auc(), *self.without_tumour_auc()]


def evaluate_pairs(pairing: Pairing, protocol: str, fit: bool, progress: ProgressCallback = ignore_progress) -> Results:
    """Score every pair, one in memory at a time. The reason why a case cannot be scored goes into `failures`.

    Args:
        pairing: Synthetic files with their acquired cases.
        protocol: Name of the protocol for similarity.
        fit: Whether to remove the best linear intensity map before similarity is measured.
        progress: Called after each case.

    Returns:
        The results.
    """
    patients: dict[str, Scores] = {}
    failures = dict(pairing.unpaired_reasons)
    file_warnings: dict[str, tuple[str, ...]] = {}
    for index, (synthetic, case) in enumerate(pairing.pairs, 1):
        try:
            patient = patient_scores.read_patient(synthetic, case)
            file_warnings[case.name] = patient.warnings
            patients[case.name] = patient_scores.score_patient(patient, protocol, fit)
        except Exception as error:  # one odd case must not stop the others
            failures[case.name] = str(error)
        progress(f"scoring by {protocol}", index, len(pairing.pairs))

    models: set[str] = set()
    warnings: dict[str, tuple[str, ...]] = {}
    for synthetic, case in pairing.pairs:
        if synthetic.mean and case.name in patients:
            model, case_warnings = _read_provenance(synthetic.mean)
            models |= {model} if model else set()
            for warning in dict.fromkeys((*file_warnings[case.name], *case_warnings)):
                warnings[warning] = (*warnings.get(warning, ()), case.name)
    return Results(protocol, fit, patients, failures, pairing.missing_predictions, tuple(sorted(models)), warnings)


def _read_provenance(volume: Path) -> tuple[str, tuple[str, ...]]:
    """Return the model (name and hash) and the warnings from the provenance beside a volume; empty without one."""
    try:
        provenance = json.loads((volume.parent / "provenance.json").read_text(encoding="utf-8"))
        model = f"{provenance['model']['name']} {provenance['model']['hash']}"
        return model, tuple(map(str, provenance.get("warnings", ())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", ()


def average_visits(scores_by_case: Mapping[str, Scores]) -> dict[str, Scores]:
    """Average scores over the visits of each patient, since patients are the statistical units.

    Args:
        scores_by_case: Case -> scores.

    Returns:
        Patient -> scores.
    """
    visits: dict[str, list[Scores]] = {}
    for case, scores in scores_by_case.items():
        visits.setdefault(patient_id(case), []).append(scores)
    return {patient: _mean_scores(scores) if len(scores) > 1 else scores[0] for patient, scores in visits.items()}


def _mean_scores(visits: Sequence[Scores]) -> Scores:
    """Return the mean of every score over the visits that have it."""
    means: Scores = {}
    for name in dict.fromkeys(name for scores in visits for name in scores):
        values = [scores.get(name, np.nan) for scores in visits]
        finite = [value for value in values if np.isfinite(value)]
        means[name] = float(np.mean(finite)) if finite else float("nan")
    return means


def summarize(results: Results) -> Summary:
    """Summarize every score over patients.

    Args:
        results: The results.

    Returns:
        Score -> number of patients, mean, 95 % interval over patients, SD, median, smallest and largest value.
    """
    summary: Summary = {}
    for name in results.score_names():
        values = np.array([value for value in results.values_by_patient(name) if np.isfinite(value)])
        if not len(values):
            continue
        mean, low, high = statistics.confidence_interval(values.tolist())
        summary[name] = {
            "n": len(values),
            "mean": mean,
            "low": low,
            "high": high,
            "sd": float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
            "median": float(np.median(values)),
            "min": float(values.min()),
            "max": float(values.max()),
        }
    return summary


def volume_agreement(results: Results) -> statistics.BlandAltman | None:
    """Compute the agreement of the enhancing volume in the tumour, synthetic minus acquired, in ml.

    Args:
        results: The results.

    Returns:
        Bias and limits of agreement; None for fewer than two patients.
    """
    synthetic_ml = results.values_by_patient("enhancing_ml")
    return statistics.bland_altman(synthetic_ml, results.values_by_patient("enhancing_ml_truth"))


def mean_calibration_curve(results: Results) -> dict[float, float]:
    """Average the coverage over patients.

    Args:
        results: The results.

    Returns:
        Nominal level -> mean coverage; empty if no patient has an uncertainty.
    """
    summary = summarize(results)
    names = {level: calibration.coverage_name(level) for level in calibration.NOMINAL_LEVELS}
    return {level: summary[name]["mean"] for level, name in names.items() if name in summary}


def write_csv(results: Results, path: Path) -> None:
    """Write one row per case, worst first, then the cases that could not be scored with the reason.

    Args:
        results: The results.
        path: The file to write. A NaN is an empty cell.
    """
    names = results.score_names()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "protocol", "fit", *names, "error"])
        for case in results.worst_first():
            scores = [results.patients[case].get(name, float("nan")) for name in names]
            cells = ["" if np.isnan(score) else f"{score:.6g}" for score in scores]
            writer.writerow([case, results.protocol, results.fit, *cells, ""])
        for case, reason in results.failures.items():
            writer.writerow([case, results.protocol, results.fit, *[""] * len(names), to_unicode(reason)])


def write_json(results: Results, path: Path) -> None:
    """Write everything of the results as JSON.

    Args:
        results: The results.
        path: The file to write. NaN and infinity are null; `infinite_scores` names the infinite ones of each case.
    """
    agreement = volume_agreement(results)
    protocol = PROTOCOLS[results.protocol]
    document = {
        "what": FILE_KIND,
        "use": "research use, not for diagnosis",
        "protocol": {"name": results.protocol, "description": protocol.description, "fit": results.fit},
        "models": list(results.models),
        "warnings": {warning: list(names) for warning, names in results.warnings.items()},
        "versions": {"dsdiff": version.describe_version(), "numpy": np.__version__},
        "summary": summarize(results),
        "enhancing_volume": vars(agreement) if agreement else None,
        "calibration": {f"{level:.2f}": covered for level, covered in mean_calibration_curve(results).items()},
        "patients": {case: results.patients[case] for case in results.worst_first()},
        "infinite_scores": results.infinite_scores(),
        "failures": results.failures,
        "missing_predictions": list(results.missing_predictions),
    }
    path.write_text(json.dumps(to_unicode_values(replace_nan(document)), indent=1) + "\n", encoding="utf-8")
