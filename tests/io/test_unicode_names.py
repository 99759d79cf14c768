import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from dsdiff.data import store
from dsdiff.evaluation.pairing import pair_cases
from dsdiff.evaluation.results import Results, write_csv, write_json
from dsdiff.inference.outputs import output_name, result_dir
from dsdiff.io import splits
from dsdiff.io.cases import Case, discover_cases, discover_named_cases
from dsdiff.system.unicode_names import to_case_name, to_file_name, to_unicode, to_unicode_values

LATIN1_NAME = os.fsdecode("Müller".encode("latin-1"))  # "M\udcfcller" in a UTF-8 locale
LIST_AND_SPLIT = """
import sys
from pathlib import Path
from dsdiff.inference.outputs import result_dir
from dsdiff.io import splits
from dsdiff.io.cases import discover_cases
root = Path(sys.argv[1])
cases = discover_cases(root / "cohort")
splits.write(splits.make([case.name for case in cases], 2, 0), root / "split.json")
for case in cases:
    result_dir(case, root / "out").mkdir(parents=True)
"""


def touch_cohort(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
        for contrast in ("t1", "t2", "flair", "t1ce"):
            (folder / name / f"{name}_{contrast}.nii.gz").touch()
    return folder


def test_names_are_read_as_utf8_and_other_bytes_are_escaped():
    assert to_unicode("José [1]") == "José [1]"
    assert to_unicode("Jos\udcc3\udca9") == "José"  # as Python decodes the name in an ASCII locale
    assert to_unicode(LATIN1_NAME) == r"M\xfcller"
    assert to_case_name(unicodedata.normalize("NFD", "Jürgen")) == "Jürgen"
    assert to_unicode_values({"a\udcff": [LATIN1_NAME, 1, None]}) == {r"a\xff": [r"M\xfcller", 1, None]}
    assert to_file_name("Jürgen") == "Jürgen"


@pytest.mark.skipif(sys.platform != "linux", reason="file systems of Linux take any bytes as a name")
def test_cases_of_any_name_have_a_split_and_results(tmp_path):
    names = ["José Müller (3)", "p[1]", LATIN1_NAME]
    cohort = touch_cohort(tmp_path / "cohort", *names)
    for decoy in (".DS_Store", "__MACOSX/._p1_t1.nii.gz", "p[1]/._p[1]_t1.nii.gz"):
        (cohort / decoy).parent.mkdir(exist_ok=True)
        (cohort / decoy).write_bytes(b"\0\5\26\7")

    cases = discover_cases(cohort)
    assert {case.name for case in cases} == {"José Müller (3)", "p[1]", r"M\xfcller"}
    assert all(path.is_file() for case in cases for path in case.files.values())

    splits.write(splits.make([case.name for case in cases], 3, 0), tmp_path / "split.json")
    split_names = [name for fold in splits.read(tmp_path / "split.json").folds for name in fold]
    assert len(discover_named_cases(cohort, split_names)) == 3
    assert r"\ud" not in (tmp_path / "split.json").read_text(encoding="utf-8")

    for case in cases:
        for path in (
            result_dir(case, tmp_path / "out") / output_name(case, "synth"),
            store.case_path(tmp_path, case.name),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert len(pair_cases(tmp_path / "out", cohort, None, None).pairs) == 3


def test_predictions_of_a_mac_are_paired(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Jürgen")
    touch_cohort(tmp_path / "cohort", "Jürgen")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{decomposed}_desc-synthT1ce_T1w.nii.gz").touch()
    assert len(pair_cases(tmp_path / "out", tmp_path / "cohort", None, None).pairs) == 1


def test_results_hold_no_lone_surrogate(tmp_path):
    reason = f"cohort/{LATIN1_NAME}: cannot be read"
    results = Results("brain", False, {Case(LATIN1_NAME, {}).name: {"psnr_brain": 20.0}}, {"b": reason})
    write_csv(results, tmp_path / "patients.csv")
    write_json(results, tmp_path / "summary.json")
    assert r"M\xfcller,brain" in (tmp_path / "patients.csv").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "summary.json").read_text())["failures"]["b"] == r"cohort/M\xfcller: cannot be read"


def test_errors_and_warnings_hold_no_lone_surrogate(cli, tmp_path):
    code, printed = cli("synth", tmp_path / LATIN1_NAME, "-o", tmp_path / "out")
    assert (code, r"M\xfcller: no such folder" in printed) == (2, True)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems decode names as UTF-8 always")
def test_a_locale_without_utf8_gives_the_same_names(tmp_path):
    names = ["José Müller (3)", "p1"]
    touch_cohort(tmp_path / "cohort", *names)
    locale = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    source = str(Path(__file__).parents[2] / "src")
    environment = os.environ | locale | {"PYTHONPATH": source}
    subprocess.run([sys.executable, "-c", LIST_AND_SPLIT, str(tmp_path)], env=environment, check=True)
    assert {name for fold in splits.read(tmp_path / "split.json").folds for name in fold} == set(names)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names)
