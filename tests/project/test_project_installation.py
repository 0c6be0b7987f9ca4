"""Everything that the suite needs is installed: a missing part is a failure, never a skip."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def test_programs_are_those_of_this_environment() -> None:
    for name in ("neuromirror", "git-annex-backend-XS3ETAG", "git-annex", "datalad", "dandi"):
        found = shutil.which(name)
        assert found is not None, name
        assert Path(found).parent == BIN
    command = ["git", "annex", "version"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"git-annex version: (10)\.\d{8}", output)


def test_every_requirement_of_the_suite_is_installed() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    lines = [line for group in groups.values() for line in group if isinstance(line, str)]
    assert len(lines) > 20
    for line in [*lines, *(requires("neuromirror") or [])]:
        one = Requirement(line)
        if one.marker is None or one.marker.evaluate({"extra": "all"}):
            assert one.specifier.contains(version(one.name), prereleases=True), line


def test_tests_do_not_see_the_persons_home(isolated_home: Path) -> None:
    assert Path.home() == isolated_home
    command = ["git", "config", "--global", "--get", "user.email"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output == "test@example.invalid\n"
    assert not [name for name in os.environ if name.startswith(("DATALAD_", "NEUROMIRROR_"))]


@pytest.fixture
def environment() -> ModuleType:
    """``scripts/environment.py``, which runs before anything is installed."""
    spec = importlib.util.spec_from_file_location("made", ROOT / "scripts" / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    ("there", "lacking"),
    [
        ((), ["systemd", "chromium-headless-shell", "fonts-dejavu-core", "wget", "aria2"]),
        (("systemd-analyze", "aria2c"), ["chromium-headless-shell", "fonts-dejavu-core", "wget"]),
        (("chromium", "wget", "aria2c"), ["systemd"]),
        (("google-chrome", "systemd-analyze", "wget"), ["aria2"]),
    ],
)
def test_ci_gets_the_programs_that_its_tests_need(
    environment: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    there: tuple[str, ...],
    lacking: list[str],
) -> None:
    for name in there:
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.lacking_in_ci() == lacking


def test_programs_with_an_environment_of_their_own_are_pinned() -> None:
    folder = ROOT / "tests" / "clients"
    for requested in folder.glob("*.in"):
        names = {line.partition("==")[0] for line in requested.with_suffix(".txt").open()}
        assert set(requested.read_text("utf-8").split()) <= names
    assert {one.stem for one in folder.glob("*.in")} == {one.stem for one in folder.glob("*.txt")}


def test_the_environment_of_a_program_is_replaced_when_its_pins_change(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pinned = tmp_path / "empty.txt"
    pinned.write_text("# nothing\n", "utf-8")
    monkeypatch.setattr(environment, "CLIENT_VENVS", tmp_path / "venvs")
    monkeypatch.setattr(environment, "PYTHON", Path(sys.executable))
    made = tmp_path / "venvs" / "empty"
    environment.make_client_environment(pinned)
    assert (made / "bin" / "python").exists()
    (made / "mark").touch()
    environment.make_client_environment(pinned)
    assert (made / "mark").exists()
    pinned.write_text("# still nothing\n", "utf-8")
    environment.make_client_environment(pinned)
    assert not (made / "mark").exists()
    pinned.write_text("no such requirement\n", "utf-8")
    with pytest.raises(SystemExit):
        environment.make_client_environment(pinned)
    assert not (made / "complete").exists()


def test_a_program_without_an_environment_does_not_stop_the_others(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clients = tmp_path / "clients"
    clients.mkdir()
    (clients / "empty.txt").write_text("# nothing\n", "utf-8")
    (clients / "a.txt").mkdir()  # it cannot be read
    monkeypatch.setattr(environment, "CLIENTS", clients)
    monkeypatch.setattr(environment, "CLIENT_VENVS", tmp_path / "venvs")
    monkeypatch.setattr(environment, "PYTHON", Path(sys.executable))
    assert not environment.make_client_environments()
    assert (tmp_path / "venvs" / "empty" / "complete").exists()
    assert not (tmp_path / "venvs" / "a" / "complete").exists()
    (clients / "a.txt").rmdir()
    assert environment.make_client_environments()


def test_a_program_that_hangs_is_stopped(environment: ModuleType) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(SystemExit):
        environment.run(command, "waiting", 0.5)


def test_uv_uses_the_index_and_certificates_of_pip(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://packages.example/simple\n", "utf-8")
    for name in ("PIP_INDEX_URL", "PIP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.setenv("PIP_CERT", "/certificates.pem")
    monkeypatch.setattr(environment, "PYTHON", Path(sys.executable))
    assert environment.uv_variables() == {
        "UV_DEFAULT_INDEX": "https://packages.example/simple",
        "SSL_CERT_FILE": "/certificates.pem",
    }
