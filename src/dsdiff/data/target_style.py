"""The style of training targets: how a patient's tissues look in the target, apart from enhancement.

A source image cannot tell this style (see `style.regression`). Training therefore either moves all targets to one
style, or gives the network a style code: the patient's own, or the one that its sources let expect.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dsdiff.data.dataset import StyleCodes, TrainingPatient
from dsdiff.io.file_names import patient_id
from dsdiff.style import retrieval
from dsdiff.style.regression import LinearRegression, StyleCode, StyleKind
from dsdiff.style.retrieval import StyleRetriever


@dataclass(frozen=True)
class StyleStats:
    """The styles of the training targets, for cases without a target.

    Attributes:
        average: The average style code.
        retriever: Predicts a style code from the features of a case, None if only the average is known.
    """

    average: StyleCode
    retriever: StyleRetriever | None = None


def average_style(patients: Sequence[TrainingPatient]) -> LinearRegression:
    """Fit one style to the targets of all patients.

    Args:
        patients: At least one patient.

    Returns:
        The average style, of the kind "linear".
    """
    return LinearRegression.merge(patient.slices.fit_style() for patient in patients)


def match_style(patients: Sequence[TrainingPatient], style: LinearRegression) -> list[TrainingPatient]:
    """Give the targets of all patients one style. Enhancement stays, as the sources do not explain it.

    Args:
        patients: The patients.
        style: The common style, of the kind "linear".

    Returns:
        The patients with their changes of style.
    """
    weights = style.weights
    restyled_patients = []
    for patient in patients:
        change = StyleCode(style.kind, weights - patient.slices.fit_style().weights)
        restyled_patients.append(replace(patient, style_change=change))
    return restyled_patients


def attach_style_codes(
    patients: Sequence[TrainingPatient], kind: StyleKind
) -> tuple[list[TrainingPatient], StyleStats]:
    """Attach two style codes to each patient: its own, and the one expected without its target.

    The expected code of the kind "curves" is retrieved from other patients, so that no visit of the same patient
    helps. The expected code of the kind "linear" is the average.

    Args:
        patients: At least one patient.
        kind: A kind of `style.regression.KNOTS`.

    Returns:
        The patients with their codes, and the styles of all of them.

    Raises:
        ValueError: There is no patient.
    """
    styles = [patient.slices.fit_style(kind) for patient in patients]
    average = LinearRegression.merge(styles).style_code

    visits: dict[str, list[int]] = {}
    for index, patient in enumerate(patients):
        visits.setdefault(patient_id(patient.name), []).append(index)

    retriever = None
    if kind == "curves" and len(visits) > 1:
        retriever = retrieval.fit_retriever([patient.features for patient in patients], styles)

    patients_with_codes = []
    for patient, style in zip(patients, styles, strict=True):
        expected = average
        if retriever is not None:
            expected = retriever.predict_style(patient.features, visits[patient_id(patient.name)])
        patients_with_codes.append(replace(patient, style_codes=StyleCodes(style.style_code, expected)))

    return patients_with_codes, StyleStats(average, retriever)


def attach_expected_codes(patients: Sequence[TrainingPatient], style_stats: StyleStats) -> list[TrainingPatient]:
    """Attach the expected style code to held-out patients, whose own style must stay unknown.

    Args:
        patients: The held-out patients.
        style_stats: The styles of the training patients.

    Returns:
        The patients with the expected code in place of their own, or without codes if only the average is known.
    """
    retriever = style_stats.retriever
    if retriever is None:
        return list(patients)

    patients_with_codes = []
    for patient in patients:
        code = retriever.predict_style(patient.features)
        patients_with_codes.append(replace(patient, style_codes=StyleCodes(code, code)))
    return patients_with_codes
