"""Scores of ablation.py: held-out patients in their predicted style, and in the styles of references."""

import re

from ablation_table import PatientScores

from dsdiff.data.dataset import TrainingPatient
from dsdiff.inference.model import Model
from dsdiff.io.file_names import patient_id
from dsdiff.style.regression import StyleCode
from dsdiff.training.validate import validate_patient

OWN_REFERENCE, OTHER_REFERENCE = ", own reference", ", other reference"  # appended to the name of the arm


def score_patients(
    patients: list[TrainingPatient], held_out: list[TrainingPatient], model: Model, with_references: bool
) -> dict[str, PatientScores]:
    """Score patients in the predicted style and, if the model has style conditioning, with two references.

    Args:
        patients: The patients to score.
        held_out: All held-out patients, among which references are found.
        model: The model.
        with_references: Score references too.

    Returns:
        Variant -> patient -> score -> value; variant "" is the predicted style.
    """
    scores: dict[str, PatientScores] = {}
    for patient in patients:
        style_codes = {"": predict_style(patient, model)}
        if with_references:
            style_codes |= reference_styles(patient, held_out, model)
        for variant, style_code in style_codes.items():
            scores.setdefault(variant, {})[patient.name] = validate_patient(model, patient, style_code)
    return scores


def predict_style(patient: TrainingPatient, model: Model) -> StyleCode | None:
    """Predict the style of a patient from its sources.

    Args:
        patient: The patient.
        model: The model.

    Returns:
        The style code; None for the average style.
    """
    retriever = model.metadata.style_retriever
    if model.config.conditioning.style == "none" or retriever is None:
        return None
    return retriever.predict_style(patient.features)


def reference_styles(
    patient: TrainingPatient, held_out: list[TrainingPatient], model: Model
) -> dict[str, StyleCode | None]:
    """Fit the styles of a patient's references.

    Args:
        patient: The patient.
        held_out: Patients among which the other reference is found.
        model: The model.

    Returns:
        Variant -> style code; empty for a model without style conditioning.
    """
    kind = model.config.conditioning.style
    if kind == "none":
        return {}
    style_codes: dict[str, StyleCode | None] = {OWN_REFERENCE: patient.slices.fit_style(kind).style_code}
    if neighbor := find_neighbor(patient, held_out):
        style_codes[OTHER_REFERENCE] = neighbor.slices.fit_style(kind).style_code
    return style_codes


def find_neighbor(patient: TrainingPatient, patients: list[TrainingPatient]) -> TrainingPatient | None:
    """Find the next patient of the same collection, by the first letters of the names.

    Args:
        patient: The patient.
        patients: All patients, `patient` among them.

    Returns:
        Another patient, not another visit; None if there is none.
    """
    collection = re.split(r"\d{3,}|_[A-Z]{3}_\d", patient.name)[0]
    same_collection = [p for p in patients if p.name.startswith(collection)]
    position = same_collection.index(patient)
    for neighbor in same_collection[position + 1 :] + same_collection[:position]:
        if patient_id(neighbor.name) != patient_id(patient.name):
            return neighbor
    return None
