"""Labels of tumour segmentations (BraTS conventions)."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from dsdiff.errors import InputError
from dsdiff.volume import Mask3D, Volume3D

TUMOUR_LABELS = (1, 2, 3, 4)  # necrotic core, edema, enhancing tumour (4 up to BraTS 2021, 3 since)
BRATS_2023_NAME = re.compile(r"BraTS-[A-Za-z]+-\d+-\d+$")
LABEL_TOLERANCE = 0.01  # a value farther than this from a whole number is no label
MAX_TUMOUR_FRACTION = 0.6  # of the brain, with edema; the largest tumour of 45 patients fills a sixth


def round_labels(labels: Volume3D, file: Path) -> Volume3D:
    """Round labels to whole numbers: a file with scl_slope may hold 2.00003 for 2.

    Args:
        labels: Voxels of a segmentation.
        file: The file that they were read from, for the message.

    Returns:
        Whole numbers as float.

    Raises:
        InputError: A voxel lies between two labels.
    """
    rounded_labels = np.rint(labels)
    is_fractional = np.abs(labels - rounded_labels) > LABEL_TOLERANCE
    if is_fractional.any():
        raise InputError(
            f"{file} is not a segmentation: it holds {labels[is_fractional][0]:g}, labels must be whole numbers; "
            "resample segmentations with nearest-neighbor interpolation"
        )

    return rounded_labels


def relabel_cavity(labels: Volume3D, case_name: str) -> Volume3D:
    """Change the resection cavity (4) of BraTS since 2023 to non-enhancing tumour (1).

    BraTS 2021 uses 4 for enhancing tumour. In a segmentation without label 3, the cavity would be taken for that.

    Args:
        labels: Whole numbers.
        case_name: Its form tells the year of the convention.

    Returns:
        Labels; unchanged for names of other conventions.

    Raises:
        InputError: The labels are those of BraTS-PED since 2024 (1 enhancing, 3 cyst, 4 edema).
    """
    if case_name.startswith("BraTS-PED-") and (labels == 4).any():
        raise InputError(
            f"the segmentation of {case_name} holds label 4: BraTS-PED uses other labels since 2024; relabel them as 1 "
            "(necrosis, cyst, non-enhancing tumour), 2 (edema) and 3 (enhancing tumour)"
        )

    return np.where(labels == 4, 1, labels) if BRATS_2023_NAME.match(case_name) else labels


def tumour_mask(labels: Shaped[np.ndarray, "x y z"], brain: Mask3D, case_name: str) -> Mask3D:
    """Select the whole tumour inside the brain.

    Args:
        labels: Whole numbers.
        brain: Brain mask on the same grid.
        case_name: For the message.

    Returns:
        Mask of the tumour: necrosis, edema and enhancing tumour.

    Raises:
        InputError: It is another segmentation, e.g. of tissues, which BIDS names _dseg too.
    """
    is_unknown = ~np.isin(labels, (0, *TUMOUR_LABELS))
    if is_unknown.any():
        raise InputError(_describe_wrong_labels(case_name, f"holds label {labels[is_unknown][0]:g}"))

    mask = np.isin(labels, TUMOUR_LABELS) & brain
    fraction = mask.sum() / max(brain.sum(), 1)
    if fraction > MAX_TUMOUR_FRACTION:
        raise InputError(_describe_wrong_labels(case_name, f"fills {fraction:.0%} of the brain"))

    return mask


def _describe_wrong_labels(case_name: str, finding: str) -> str:
    return (
        f"the segmentation of {case_name} is not of a tumour: it {finding}; expected BraTS labels (1 necrosis, 2 "
        "edema, 3 or 4 enhancing); rename other segmentations so that they do not end in _seg or _dseg"
    )


def enhancing_label(labels: Shaped[np.ndarray, "..."]) -> int:
    """Tell which label marks enhancing tumour.

    Args:
        labels: Whole numbers.

    Returns:
        3 if the segmentation uses it (BraTS since 2023, where 4 is the resection cavity), else 4 (up to 2021).
    """
    return 3 if (labels == 3).any() else 4
