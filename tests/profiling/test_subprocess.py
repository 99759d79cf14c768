"""Jobs in a new process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsdiff.errors import DsdiffError
from dsdiff.profiling.subprocess import run_in_subprocess

PARENT_PROGRAM = """
import os, sys
from dsdiff.profiling.subprocess import run_in_subprocess
if __name__ == "__main__":
    run_in_subprocess(os.system, f"echo $PPID > {sys.argv[1]}; exec sleep 30")
"""


def wait_until(condition):
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.1)
    return False


def is_alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent process")
def test_a_job_ends_with_its_parent_process(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT_PROGRAM)
    pid_file = tmp_path / "pid"
    with subprocess.Popen([sys.executable, tmp_path / "parent.py", pid_file], start_new_session=True) as parent:
        try:
            assert wait_until(lambda: pid_file.is_file() and pid_file.read_text().strip())
            child = int(pid_file.read_text())
            assert is_alive(child)
            parent.terminate()
            parent.wait()
            assert wait_until(lambda: not is_alive(child))
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def test_a_crash_of_a_job_is_an_error_of_the_caller():
    with pytest.raises(DsdiffError, match="the process of the job died"):
        run_in_subprocess(_crash)
    assert run_in_subprocess(divmod, 7, 2) == (3, 1)


def _crash() -> None:
    os._exit(9)
