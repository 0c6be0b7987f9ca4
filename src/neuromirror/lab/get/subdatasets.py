"""Sub-datasets: whether they are installed, and having DataLad install them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from neuromirror.lab.get.clone import plain_environment

_AT_ONCE: Final = 500
_HINT: Final = "it is a sub-dataset that is not installed"


def is_installed(top: Path, path: bytes) -> bool:
    """Whether a sub-dataset has been cloned to its place."""
    return os.path.lexists(os.path.join(os.fsencode(top), path, b".git"))


def install(top: Path, paths: Sequence[bytes]) -> dict[bytes, str]:
    """Has DataLad clone sub-datasets, without contents; gives why for those that it did not."""
    if shutil.which("datalad") is None:
        return dict.fromkeys(
            paths, f"{_HINT}, nor is DataLad, which could do that: pip install datalad"
        )
    failed: dict[bytes, str] = {}
    for first in range(0, len(paths), _AT_ONCE):
        some = paths[first : first + _AT_ONCE]
        done = subprocess.run(
            [*("datalad", "-l", "critical", "-f", "disabled"), *("get", "-n", "-d", "."), *some],
            cwd=top,
            env=plain_environment(),
            capture_output=True,
            check=False,
        )
        said = done.stderr.decode(errors="replace").strip().splitlines()
        for path in some:
            if not is_installed(top, path):
                why = said[-1] if said else "'datalad get -n' could not do it"
                failed[path] = f"{_HINT}: {why}"
    return failed
