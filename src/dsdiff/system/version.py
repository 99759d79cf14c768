"""Which source this is: the version, and the commit where it runs from a working copy."""

import subprocess
from pathlib import Path

from dsdiff import __version__


def label() -> str:
    """Such as "0.1.0", or "0.1.0 (commit 1a2b3c4d5e, changed)" in a git working copy of dsdiff."""
    here = Path(__file__).parents[3]
    if not (here / "src" / "dsdiff").is_dir() or not (here / ".git").exists():  # installed: no commit to tell
        return __version__
    git = ["git", "-C", str(here)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "src"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__} (commit {commit.stdout.strip()}{', changed' if changed.stdout.strip() else ''})"
