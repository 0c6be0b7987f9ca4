"""Imports are lazy: a small command starts quickly, and a small installation works."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import neuromirror

PACKAGES = sorted(
    path.parent.name for path in Path(neuromirror.__file__).parent.glob("*/__init__.py")
)

EXTRA_PACKAGES = [
    "boto3",
    "botocore",
    "dandi",
    "datalad",
    "distributed",
    "flask",
    "flask_cors",
    "h5py",
    "hdmf",
    "intern",
    "moto",
    "numpy",
    "pandas",
    "pynwb",
    "werkzeug",
    "zarr",
]
HEAVY = [*EXTRA_PACKAGES, "pydantic", "requests", "sqlite3", "urllib3", "zstandard"]

HELP = """
import json, sys
from neuromirror.cli import main
try:
    main(sys.argv[1:], prog_name="neuromirror")
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""

STANDALONE = """
import importlib, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
for package in {packages!r}:
    importlib.import_module(f"neuromirror.{{package}}")
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    # measuring coverage imports sqlite3
    own = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=own)


@pytest.mark.parametrize("arguments", [["--help"], ["sync", "--help"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    ended = run(HELP, *arguments)
    assert ended.returncode == 0, ended.stderr
    assert "Usage: neuromirror" in ended.stdout
    modules = set(json.loads(ended.stderr.splitlines()[-1]))
    assert ("neuromirror.cli.serve" in modules) == (arguments == ["--help"])
    loaded = {name.partition(".")[0] for name in modules}
    assert "neuromirror" in loaded
    assert loaded & set(HEAVY) == set()


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("custody.keep", {"neuromirror.crawl", "neuromirror.sources.s3", "boto3"}),
        ("lab.restore", {"neuromirror.crawl", "neuromirror.sources.s3", "pydantic"}),
        ("vault.own_vaults", {"neuromirror.index", "pydantic"}),
        ("web.rate_limits", {"starlette"}),
        ("web.serve", {"pydantic", "numpy", "dask"}),
    ],
)
def test_a_command_does_not_load_what_it_does_not_need(module: str, unneeded: set[str]) -> None:
    ended = run(f"import sys, neuromirror.{module}; print(*sys.modules)")
    assert ended.returncode == 0, ended.stderr
    assert unneeded & set(ended.stdout.split()) == set()


def test_packages_can_be_imported_without_any_extra() -> None:
    assert len(PACKAGES) > 20
    ended = run(STANDALONE.format(names=EXTRA_PACKAGES, packages=PACKAGES))
    assert ended.returncode == 0, ended.stderr
    ended = run(STANDALONE.format(names=["click"], packages=["cli"]))
    assert "No module named 'click'" in ended.stderr, "the check cannot fail"
