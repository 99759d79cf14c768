"""A job in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsdiff.errors import DsdiffError
from dsdiff.profiling.subprocess import apart

PARENT = """
import os, sys
from dsdiff.profiling.subprocess import apart
if __name__ == "__main__":
    apart(os.system, f"echo $PPID > {sys.argv[1]}; exec sleep 30")
"""


def until(met):
    for _ in range(600):
        if met():
            return True
        time.sleep(0.1)
    return False


def alive(pid):
    """Whether a process runs; one that nobody has asked about since it ended does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process that its parent died")
def test_a_job_ends_with_the_process_that_waits_for_it(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    told = tmp_path / "pid"
    with subprocess.Popen([sys.executable, tmp_path / "parent.py", told], start_new_session=True) as parent:
        try:
            assert until(lambda: told.is_file() and told.read_text().strip())
            child = int(told.read_text())
            assert alive(child)
            parent.terminate()
            parent.wait()
            assert until(lambda: not alive(child))
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def test_a_job_that_dies_says_so_and_takes_nothing_with_it():
    with pytest.raises(DsdiffError, match="its process died"):
        apart(_die)
    assert apart(divmod, 7, 2) == (3, 1)


def _die() -> None:
    os._exit(9)
