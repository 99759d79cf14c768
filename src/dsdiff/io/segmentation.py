"""What the numbers of a segmentation mean (BraTS)."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped

from dsdiff.errors import InputError

TUMOUR = (1, 2, 3, 4)  # necrotic core, oedema, enhancing tumour (4 up to BraTS 2021, 3 since)
SINCE_2023 = re.compile(r"BraTS-[A-Za-z]+-\d+-\d+$")
OFF = 0.01  # beyond which a label is none
MOST = 0.6  # of a brain that a tumour takes, oedema and all; the largest of 45 patients: a sixth


def whole_numbers(labels: Float[np.ndarray, "x y z"], file: Path) -> Float[np.ndarray, "x y z"]:
    """Labels as the whole numbers that they stand for: a file that scales its values holds 2.00003 for 2.

    Raises `InputError` for what lies between two labels.
    """
    rounded = np.rint(labels)
    if (odd := np.abs(labels - rounded) > OFF).any():
        raise InputError(
            f"{file} is no segmentation: it holds {labels[odd][0]:g}, labels are whole numbers; resample it by the "
            "nearest neighbour"
        )
    return rounded


def without_cavity(labels: Float[np.ndarray, "x y z"], case: str) -> Float[np.ndarray, "x y z"]:
    """Labels of a case by a name that BraTS gives since 2023, its resection cavity (4) as tumour that does not enhance:
    where nothing else enhances it would be read as the enhancing tumour of 2021.

    Raises `InputError` for the labels of children since 2024, where 1 enhances, 3 is a cyst and 4 is oedema.
    """
    if case.startswith("BraTS-PED-") and (labels == 4).any():
        raise InputError(
            f"the segmentation of {case} holds 4: BraTS-PED numbers tissues otherwise since 2024; renumber them as 1 "
            "(necrosis, cyst and what does not enhance), 2 (oedema) and 3 (enhancing)"
        )
    return np.where(labels == 4, 1, labels) if SINCE_2023.match(case) else labels


def tumour(
    labels: Shaped[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"], case: str
) -> Bool[np.ndarray, "x y z"]:
    """The whole tumour. Raises `InputError` for other segmentations, as of tissues, which BIDS calls _dseg too."""
    if (odd := ~np.isin(labels, (0, *TUMOUR))).any():
        found = f"holds label {labels[odd][0]:g}"
    elif (share := (np.isin(labels, TUMOUR) & brain).sum() / max(brain.sum(), 1)) > MOST:
        found = f"fills {share:.0%} of the brain"
    else:
        return np.isin(labels, TUMOUR) & brain
    raise InputError(
        f"the segmentation of {case} is none of a tumour: it {found}; BraTS labels are needed (1 necrosis, 2 oedema, "
        "3 or 4 enhancing), and a segmentation of anything else must not be called _seg or _dseg here"
    )


def enhancing_label(labels: Shaped[np.ndarray, "..."]) -> int:
    """3 where the segmentation uses it (BraTS from 2023, where 4 is the resection cavity), else 4 (up to 2021)."""
    return 3 if (labels == 3).any() else 4
