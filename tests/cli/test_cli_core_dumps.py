"""Processes of neuromirror write no core dump, which would contain tokens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = "resource.getrlimit(resource.RLIMIT_CORE)[0]"
RAISED = (
    "import io, resource, sys; "
    "resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2); "
)


@pytest.mark.parametrize(
    "program",
    [
        "from neuromirror.cli import main; main(['list'], standalone_mode=False)",
        "sys.stdin = io.StringIO(''); from neuromirror.volume.remote import main; main()",
    ],
    ids=["neuromirror", "git-annex-remote-neuromirror"],
)
def test_no_core_dump_is_written(program: str, tmp_path: Path) -> None:
    code = (
        f"{RAISED}\ntry:\n    {program}\nexcept BaseException:\n    pass\nprint('limit', {LIMIT})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "limit 0"
