"""The version of dsdiff, with the commit if it runs from a git working copy."""

import subprocess
from pathlib import Path

from dsdiff import __version__


def describe_version() -> str:
    """Describe the running source code.

    Returns:
        The version, as "0.1.0". In a git working copy also the commit, as "0.1.0 (commit 1a2b3c4d5e, changed)".
    """
    root = Path(__file__).parents[3]
    if not (root / "src" / "dsdiff").is_dir() or not (root / ".git").exists():  # an installed package
        return __version__

    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run([*git, "status", "--porcelain", "src"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return __version__
    changed = ", changed" if status.stdout.strip() else ""
    return f"{__version__} (commit {commit.stdout.strip()}{changed})"
