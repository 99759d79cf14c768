"""dsdiff split: patient-level folds."""

from pathlib import Path
from typing import Annotated

import typer

from dsdiff.errors import OutputError


def command(
    folder: Annotated[Path, typer.Argument(metavar="COHORT", help="A folder of cases, or a store.")],
    out: Annotated[Path, typer.Argument(metavar="SPLIT.json", help="The file to write; it must not exist.")],
    folds: Annotated[int, typer.Option(min=2, help="How many folds.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the shuffle.")] = 2024,
) -> None:
    """Deal the patients of a cohort into folds, each with all of its visits.

    Names tell visits by BIDS (sub-01_ses-2) and BraTS since 2023 (BraTS-GLI-00027-001); else every case is a patient.
    Written once, to a file whose hash goes into every result that rests on it.

    Example: dsdiff split cohort split.json --folds 5
    """
    from dsdiff.data import splits, store
    from dsdiff.io.cases import patient_of

    if out.exists():
        raise OutputError(f"{out} exists already; a split is written once")
    split = splits.make(store.names(folder), folds, seed)
    splits.write(split, out)
    cases = " + ".join(str(len(fold)) for fold in split.folds)
    patients = " + ".join(str(len({patient_of(case) for case in fold})) for fold in split.folds)
    typer.echo(f"{out}: {split.hash}, {cases} cases" + (f" of {patients} patients" if patients != cases else ""))
