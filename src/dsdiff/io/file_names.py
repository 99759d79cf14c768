"""Names of image files: which case and contrast a name stands for (BraTS, BIDS), and which patient a case is of."""

import re
from pathlib import Path

from dsdiff.system.unicode_names import to_case_name

# Last word of a file name -> contrast: BraTS up to 2021, BraTS since 2023, BIDS, and names that hospitals use.
CONTRAST_BY_SUFFIX = {
    "t1": "t1", "t1n": "t1", "t1w": "t1", "t1pre": "t1",
    "t1ce": "t1ce", "t1c": "t1ce", "t1gd": "t1ce", "t1post": "t1ce", "t1wce": "t1ce",
    "t2": "t2", "t2w": "t2",
    "flair": "flair", "t2f": "flair", "t2flair": "flair",
    "seg": "seg", "dseg": "seg",
    "enh": "enh",
}  # fmt: skip
LABEL_MAPS = ("seg", "enh")
NIFTI_SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
BIDS_NAME = re.compile(
    r"^(?P<case>sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?)(?P<entities>(?:_[A-Za-z]+-[A-Za-z0-9]+)*)_[A-Za-z0-9]+$"
)
T2_FLAIR = re.compile(r"(?<![a-z0-9])t2[_\-]?flair$", re.IGNORECASE)  # one contrast, not a T2
OUTPUT_PATTERN = re.compile(r"_desc-(synth|std)T1ce_T1w$")  # does not match desc-synthstrip of a skull stripper
VISIT_NAME = re.compile(r"^(?P<patient>sub-[A-Za-z0-9]+|BraTS-[A-Za-z]+-\d+)(?:_ses-[A-Za-z0-9]+|-\d{3})$")
NAME_SUFFIX = re.compile(r"^(?:(?P<case>.*)[_\-. ])?(?P<word>[A-Za-z0-9]+)$")


def parse_file_name(path: Path) -> tuple[str, str] | None:
    """Read case name and contrast from a file name.

    Args:
        path: A file; it need not exist.

    Returns:
        (case name, contrast); None if the name has no known contrast, or if dsdiff wrote the file.
    """
    stem = T2_FLAIR.sub("flair", NIFTI_SUFFIX.sub("", to_case_name(path.name)))
    if not NIFTI_SUFFIX.search(path.name) or stem.startswith(".") or OUTPUT_PATTERN.search(stem):
        return None

    suffix = NAME_SUFFIX.match(stem)
    contrast = CONTRAST_BY_SUFFIX.get(suffix["word"].lower()) if suffix else None
    if suffix is None or contrast is None:
        return None

    if bids := BIDS_NAME.match(stem):
        has_contrast_agent = contrast == "t1" and "_ce-" in bids["entities"]
        return bids["case"], "t1ce" if has_contrast_agent else contrast

    source_suffix = NAME_SUFFIX.match(suffix["case"] or "") if contrast in LABEL_MAPS else None  # t1 in p1_t1_seg
    if source_suffix and source_suffix["word"].lower() in CONTRAST_BY_SUFFIX:
        suffix = source_suffix

    return suffix["case"] or to_case_name(path.parent.resolve().name), contrast


def patient_id(name: str) -> str:
    """Read the patient from a case name.

    Args:
        name: Case name.

    Returns:
        The patient of a BIDS (sub-01_ses-2) or BraTS (BraTS-GLI-00027-001) visit; else the case name itself.
    """
    visit = VISIT_NAME.match(name)
    return visit["patient"] if visit else name
