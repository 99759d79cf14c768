"""A cohort's scores: gathered patient by patient, summed up, and written so that every number names its protocol."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dsdiff.evaluation import calibration as uncertainty
from dsdiff.evaluation import patient_scores as patient
from dsdiff.evaluation import statistics
from dsdiff.evaluation.pairing import Pairs
from dsdiff.evaluation.protocols import PROTOCOLS
from dsdiff.io.cases import patient_of
from dsdiff.system import version

WHAT = "scores of synthetic contrast-enhanced MRI by dsdiff evaluate"
Scores = dict[str, float]
Summary = dict[str, dict[str, float | int]]  # score -> n, mean, low, high, sd, median, least, most


@dataclass(frozen=True)
class Results:
    """Scores of every patient by name, and why the others have none."""

    protocol: str
    fit: bool
    patients: dict[str, Scores] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    without_prediction: tuple[str, ...] = ()
    models: tuple[str, ...] = ()  # name and hash of what made the volumes, where their provenance tells
    doubts: dict[str, tuple[str, ...]] = field(default_factory=dict)  # what it warns of -> the patients

    @property
    def count(self) -> int:
        """How many patients were scored, whatever their visits."""
        return len({*map(patient_of, self.patients)})

    @property
    def main(self) -> str:
        """The likeness that patients are ranked by where enhancement cannot rank them."""
        return f"psnr_{PROTOCOLS[self.protocol].widest}"

    def values(self, name: str) -> list[float]:
        """One score of every patient; NaN where a patient lacks it."""
        return [scores.get(name, float("nan")) for scores in self.patients.values()]

    def by_patient(self, name: str) -> list[float]:
        """One score of every patient, the mean of a patient's visits where there are several."""
        return [scores.get(name, float("nan")) for scores in of_patients(self.patients).values()]

    def names(self) -> list[str]:
        """Every score that some patient has, in the order of scoring."""
        return list(dict.fromkeys(name for scores in self.patients.values() for name in scores))

    def placed(self) -> list[str]:
        """Patients whose enhancement has a place to be in, an AUC in the tumour: worst first."""
        auc = {name: scores.get("auc_tumour", float("nan")) for name, scores in self.patients.items()}
        return sorted((name for name in auc if np.isfinite(auc[name])), key=auc.__getitem__)

    def unsegmented(self) -> list[str]:
        """Patients in whom no tumour is segmented, by a file or for want of one."""
        return [name for name, scores in self.patients.items() if np.isnan(scores.get("lesions", 0.0))]

    def others(self) -> list[str]:
        """Patients without an AUC in the tumour, worst first: by enhancement that is not there, then by likeness.

        By likeness alone where no patient has one: without segmentations, vessels and tumour look alike.
        """
        placed = self.placed()

        def key(name: str) -> tuple[float, float]:
            wrong = self.patients[name].get("false_ml", 0.0) if placed else 0.0
            return -wrong, self.patients[name][self.main]

        return sorted(set(self.patients) - set(placed), key=key)

    def ranked(self) -> list[str]:
        """Patients, worst first: those with an AUC in the tumour, then the others."""
        return [*self.placed(), *self.others()]


def evaluate(pairs: Pairs, protocol: str, fit: bool, done: Callable[[str, str | None], None]) -> Results:
    """Score every pair, one in memory at a time.

    done: called after each case with its name and, where it could not be scored, why.
    """
    patients: dict[str, Scores] = {}
    failed = dict(pairs.unpaired)
    for made, case in pairs.found:
        try:
            patients[case.name] = patient.score(patient.read(made, case), protocol, fit)
        except Exception as error:  # one odd case must not stop the others
            failed[case.name] = str(error)
        done(case.name, failed.get(case.name))
    told = {case.name: _provenance(made.mean) for made, case in pairs.found if made.mean and case.name in patients}
    models = tuple(sorted({model for model, _ in told.values() if model}))
    texts = dict.fromkeys(text for _, warnings in told.values() for text in warnings)
    doubts = {text: tuple(name for name, (_, warnings) in told.items() if text in warnings) for text in texts}
    return Results(protocol, fit, patients, failed, pairs.without_prediction, models, doubts)


def _provenance(volume: Path) -> tuple[str, tuple[str, ...]]:
    """Name and hash of the model that made a volume, and what it warned of, from the provenance beside it; "" and
    nothing where there is none.
    """
    try:
        told = json.loads((volume.parent / "provenance.json").read_text(encoding="utf-8"))
        return f"{told['model']['name']} {told['model']['hash']}", tuple(map(str, told.get("warnings", ())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", ()


def of_patients(by_case: Mapping[str, Scores]) -> dict[str, Scores]:
    """Scores by case as means over each patient's visits (`cases.patient_of`): patients are what is drawn at random."""
    visits: dict[str, list[Scores]] = {}
    for case, scores in by_case.items():
        visits.setdefault(patient_of(case), []).append(scores)
    return {patient: _mean(found) if len(found) > 1 else found[0] for patient, found in visits.items()}


def _mean(visits: Sequence[Scores]) -> Scores:
    """Every score's mean over the visits that have it."""
    names = dict.fromkeys(name for scores in visits for name in scores)
    finite = {name: [v for scores in visits if np.isfinite(v := scores.get(name, np.nan))] for name in names}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in finite.items()}


def summary(results: Results) -> Summary:
    """Of every score: number of patients, mean, 95 % bootstrap interval over patients, SD, median, least and most."""
    found: Summary = {}
    for name in results.names():
        values = np.array([value for value in results.by_patient(name) if np.isfinite(value)])
        if not len(values):
            continue
        mean, low, high = statistics.interval(values.tolist())
        found[name] = {
            "n": len(values),
            "mean": mean,
            "low": low,
            "high": high,
            "sd": float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
            "median": float(np.median(values)),
            "least": float(values.min()),
            "most": float(values.max()),
        }
    return found


def volume_agreement(results: Results) -> statistics.Agreement | None:
    """Bland-Altman of the enhancing volume in the tumour, synthetic minus acquired, in ml."""
    return statistics.agreement(results.by_patient("enhancing_ml"), results.by_patient("enhancing_ml_truth"))


def calibration(results: Results) -> dict[float, float]:
    """Mean coverage over patients by nominal level; empty where no patient has an uncertainty."""
    summed = summary(results)
    names = {level: uncertainty.name_of(level) for level in uncertainty.LEVELS}
    return {level: summed[name]["mean"] for level, name in names.items() if name in summed}


def write_csv(results: Results, path: Path) -> None:
    """One row a patient, worst first, then those that could not be scored with the reason; empty where NaN."""
    names = results.names()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "protocol", "fit", *names, "error"])
        for case in results.ranked():
            scores = [results.patients[case].get(name, float("nan")) for name in names]
            shown = ["" if np.isnan(score) else f"{score:.6g}" for score in scores]
            writer.writerow([case, results.protocol, results.fit, *shown, ""])
        for case, reason in results.failed.items():
            writer.writerow([case, results.protocol, results.fit, *[""] * len(names), reason])


def write_json(results: Results, path: Path) -> None:
    """Everything of the results, NaN and infinity as null."""
    agreement = volume_agreement(results)
    facts = {
        "what": WHAT,
        "use": "research use, not for diagnosis",
        "protocol": {"name": results.protocol, "says": PROTOCOLS[results.protocol].says, "fit": results.fit},
        "models": list(results.models),
        "doubts": {text: list(names) for text, names in results.doubts.items()},
        "versions": {"dsdiff": version.label(), "numpy": np.__version__},
        "summary": summary(results),
        "enhancing_volume": vars(agreement) if agreement else None,
        "calibration": {f"{level:.2f}": share for level, share in calibration(results).items()},
        "patients": {case: results.patients[case] for case in results.ranked()},
        "failed": results.failed,
        "without_prediction": list(results.without_prediction),
    }
    path.write_text(json.dumps(finite(facts), indent=1) + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """A value for JSON: NaN and infinity as null, at any depth."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
