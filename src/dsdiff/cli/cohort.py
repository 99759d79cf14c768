"""The commands `dsdiff prepare` and `dsdiff split`, which make a cohort ready for training."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdiff.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from dsdiff.data.store import StoreSettings


def prepare_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of cases, with files named as in BraTS or BIDS.")
    ],
    root: Annotated[
        Path, typer.Argument(metavar="STORE", readable=False, help="Folder of the store: created, or updated.")
    ],
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that preprocess cases.")] = 1,
    contrasts: Annotated[
        str,
        typer.Option(
            help="Input contrasts, separated by commas. The first defines the brain; a case may lack the others."
        ),
    ] = "t1,t2,flair",
    target: Annotated[str, typer.Option(help="Contrast that a model is to synthesize. Every case needs it.")] = "t1ce",
    planes: Annotated[
        str,
        typer.Option(
            help="Planes for data.planes, separated by commas: axial, coronal, sagittal. Each takes disk space."
        ),
    ] = "axial",
    split: Annotated[
        Path | None,
        typer.Option(metavar="SPLIT.json", help="Split of these cases into folds, copied to STORE/split.json."),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove cases from STORE that DIR does not hold any more.")
    ] = False,
) -> None:
    """Preprocess a cohort once for all trainings.

    The command reads each case, scales it to robust z-scores, crops it to the brain, and writes it to STORE as one
    compressed file with a checksum. Training reads single slices from the store, so its memory does not grow with the
    cohort. Run the same command again to continue after a stop, to add new cases, and to renew changed or damaged ones.
    Cases that DIR does not hold any more are listed, and removed with --prune. A case that cannot be preprocessed is
    listed with the reason; the others continue (exit code 1). Look at STORE/contact.png: it shows a slice of up to 24
    cases.

    Examples:

        dsdiff prepare cohort store --workers 4

        dsdiff train bridge-small data.root=store

        dsdiff prepare cohort store --planes axial,coronal,sagittal
    """
    from dsdiff.data import build_store, store
    from dsdiff.io import splits
    from dsdiff.reporting import contact_sheet
    from dsdiff.system import atomic
    from dsdiff.system.console import print_line, progress_bars

    settings = _parse_store_settings(contrasts, target, planes)
    if split is not None:
        splits.read(split)  # an unreadable file must raise before the long work

    with progress_bars(count=True) as progress:
        report = build_store.prepare_cases(folder, root, settings, workers, progress, prune)
    for line in report.lines():
        print_line(line)

    if report.records:
        with atomic.wrap_os_error(root):
            contact_sheet.write_contact_sheet(store.open_store(root), root / contact_sheet.FILE_NAME)
        if split is not None:
            build_store.copy_split(split, root, report)
        print_line(f"done: dsdiff train CONFIG data.root={root}")
    if report.failed:
        raise typer.Exit(1)


def _parse_store_settings(contrasts: str, target: str, planes: str) -> "StoreSettings":
    """Return the settings of a store from the text of three options.

    Raises:
        ConfigError: A contrast or a plane is unknown, or no training could use the settings.
    """
    from pydantic import ValidationError

    from dsdiff.data.settings import DataConfig
    from dsdiff.data.store import StoreSettings
    from dsdiff.io.file_names import CONTRAST_BY_SUFFIX
    from dsdiff.preprocessing.planes import PLANES
    from dsdiff.schema import format_validation_error

    source_contrast, *optional = (name.strip() for name in contrasts.split(","))
    plane_names = [name.strip() for name in planes.split(",")]
    selected_planes = tuple(plane for plane in PLANES if plane in plane_names)
    if len(selected_planes) != len(plane_names):
        raise ConfigError(f"--planes is '{planes}'; it takes {', '.join(PLANES)}, each once, between commas")

    known_contrasts = {*CONTRAST_BY_SUFFIX.values()}
    if unknown := sorted({source_contrast, *optional, target} - known_contrasts):
        raise ConfigError(f"contrast '{unknown[0]}' is unknown; known contrasts: {', '.join(sorted(known_contrasts))}")

    if target in (source_contrast, *optional):
        raise ConfigError(f"--target {target} is also one of --contrasts {contrasts}; give another target")

    settings = StoreSettings((source_contrast, *optional), source_contrast, target, selected_planes)
    try:
        DataConfig(**asdict(settings))
    except ValidationError as error:
        raise ConfigError(format_validation_error(error)) from error
    return settings


def split_command(
    folder: Annotated[Path, typer.Argument(metavar="COHORT", help="Folder of cases, or a store.")],
    out: Annotated[Path, typer.Argument(metavar="SPLIT.json", help="File to write. It must not exist.")],
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the shuffle.")] = 2024,
) -> None:
    """Assign patients to folds for cross-validation.

    All visits of a patient go to the same fold. Visits are recognized by names as in BIDS (sub-01_ses-2) and in BraTS
    since 2023 (BraTS-GLI-00027-001). With any other name, each case counts as one patient. The file is written once,
    and its hash goes into every result that depends on it.

    Example: dsdiff split cohort split.json --folds 5
    """
    from dsdiff.data import store
    from dsdiff.io import splits
    from dsdiff.io.file_names import patient_id

    if out.exists():
        raise OutputError(f"{out} exists already; choose another file, since results refer to a split by its hash")
    split = splits.make(store.list_case_names(folder), folds, seed)
    splits.write(split, out)

    cases = " + ".join(str(len(fold)) for fold in split.folds)
    patients = " + ".join(str(len({patient_id(case) for case in fold})) for fold in split.folds)
    summary = f"{out}: {split.hash}, {cases} cases"
    typer.echo(summary if patients == cases else f"{summary} of {patients} patients")
