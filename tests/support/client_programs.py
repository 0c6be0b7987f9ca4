"""Programs of ``tests/clients``, each with a Python of its own (``scripts/bootstrap clients``)."""

import subprocess
from pathlib import Path

import pytest

from support.browser_session import in_ci

ROOT = Path(__file__).resolve().parents[2]


def client_python(name: str) -> Path:
    """Return the Python of an environment; without it, fail in CI and skip elsewhere."""
    folder = ROOT / ".venv-clients" / name
    if (folder / "complete").exists():
        return folder / "bin" / "python"
    missing = f"no environment {folder}; run 'scripts/bootstrap clients'"
    if in_ci():
        pytest.fail(missing)
    pytest.skip(missing)


def client_command(name: str, program: str, *arguments: str | Path) -> list[str]:
    """Return the command that starts a program of ``tests/clients`` in an environment."""
    script = ROOT / "tests" / "clients" / f"{program}.py"
    return [str(client_python(name)), "-I", str(script), *map(str, arguments)]


def run_client(name: str, program: str, *arguments: str | Path) -> None:
    """Run a program of ``tests/clients`` to its end."""
    done = subprocess.run(
        client_command(name, program, *arguments), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
