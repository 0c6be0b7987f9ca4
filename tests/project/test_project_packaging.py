"""Deployment files: systemd unit, cron, container, Prometheus alerts."""

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from neuromirror.cli import main
from neuromirror.crawl import FailureLog, open_recorder
from neuromirror.index import Schedule
from neuromirror.model import Traffic
from neuromirror.net import urls
from neuromirror.service.health import HealthServer, Heartbeat
from neuromirror.service.metrics import Metrics
from neuromirror.store import Store

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "scripts" / "systemd" / "neuromirror.service"
CRON = ROOT / "scripts" / "cron" / "neuromirror"
CONTAINER = ROOT / "Containerfile"
ALERTS = ROOT / "scripts" / "alerts.yml"
INSTALLED = "/usr/local/bin/neuromirror"


def test_the_command_of_a_recipe_is_one_that_there_is() -> None:
    lines = [line for _, key, line in settings() if key == "ExecStart"]
    cron = cron_line().rpartition(" neuromirror serve")
    container = instructions()
    addresses = "--metrics 127.0.0.1:9464 --catalogue 127.0.0.1:8270"
    assert lines == [f"{INSTALLED} serve {addresses} --log-json"]
    for arguments in (
        shlex.split(lines[0])[1:],
        shlex.split(f"serve{cron[2]}"),
        json.loads(container["CMD"]),
    ):
        command = main.commands[arguments[0]]
        parsed = command.make_context(arguments[0], arguments[1:], resilient_parsing=True).params
        # nothing was left over, and each option was understood
        assert parsed["names"] == ()
        assert sum(argument.startswith("--") for argument in arguments) == sum(
            parsed[name] not in (None, False)
            for name in ("metrics", "catalogue", "log_json", "once")
        )


# --- systemd


def settings() -> Iterator[tuple[str, str, str]]:
    """Section, name and value of the unit's settings."""
    section = ""
    for line in UNIT.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield section, name, value


@pytest.fixture
def analyze(tmp_path: Path) -> list[str]:
    """systemd's own look at units, with a unit that names the program where it is here."""
    if shutil.which("systemd-analyze") is None:
        assert os.environ.get("CI", "") in ("", "false"), "CI has to have systemd-analyze"
        pytest.skip("systemd-analyze is missing here (Debian: apt-get install systemd)")
    unit = tmp_path / UNIT.name
    text = UNIT.read_text("utf-8")
    program = shutil.which("neuromirror")
    assert program is not None
    assert text.count(INSTALLED) == 1
    unit.write_text(text.replace(INSTALLED, program))
    return ["systemd-analyze", str(unit)]


def test_systemd_accepts_the_unit(analyze: list[str]) -> None:
    program, unit = analyze
    done = subprocess.run([program, "verify", unit], capture_output=True, text=True, check=False)
    # of other units of the machine it may say what it likes
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert UNIT.name not in output

    # the check works: an unknown setting is reported
    Path(unit).write_text(Path(unit).read_text().replace("NoNewPrivileges", "NoNewPrivilege"))
    done = subprocess.run([program, "verify", unit], capture_output=True, text=True, check=False)
    assert re.search(rf"{UNIT.name}:.*'NoNewPrivilege'", done.stdout + done.stderr)


def test_the_unit_leaves_little_to_an_intruder(analyze: list[str]) -> None:
    program, unit = analyze
    command = [program, "security", "--offline=true", "--threshold=20", "--no-pager", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


def test_unit_and_container_bound_what_an_intruder_or_a_visitor_can_take() -> None:
    unit = {name: value for section, name, value in settings() if section == "[Service]"}
    assert unit["ProtectSystem"] == "strict"
    assert unit["LimitCORE"] == "0"
    assert all(
        unit[name] == "yes" for name in ("NoNewPrivileges", "PrivateTmp", "RestrictSUIDSGID")
    )
    bounds = {"MemoryHigh", "MemoryMax", "TasksMax", "LimitNOFILE", "CPUWeight", "SystemCallFilter"}
    assert bounds <= set(unit)
    # each address at which a cloud serves credentials
    denied = {
        network
        for _, name, line in settings()
        if name == "IPAddressDeny"
        for network in line.split()
    }
    assert {"link-local", "multicast"} <= denied
    assert denied - {"link-local", "multicast"} == {
        str(one).removesuffix(f"/{one.max_prefixlen}") for one in urls._METADATA
    }
    page = (ROOT / "docs" / "operate.md").read_text("utf-8")
    (run,) = re.findall(r"^# podman run (.*)$", page, re.M)
    for name in ("--memory", "--pids-limit", "--read-only", "--cap-drop all", "--cpu-shares"):
        assert f"{name} " in run
    for limit in ("nofile", "core"):
        assert f"--ulimit {limit}={unit[f'Limit{limit.upper()}']} " in run
    assert f"--pids-limit {unit['TasksMax']} " in run
    assert "--security-opt no-new-privileges " in run


# --- cron


def cron_line() -> str:
    (line,) = [line for line in CRON.read_text("utf-8").splitlines() if re.match(r"[\d*]", line)]
    return line


def test_cron_does_what_is_due_once_and_never_twice_at_a_time(tmp_path: Path) -> None:
    assert "." not in CRON.name, "cron passes over files with a dot in their names"
    assert CRON.read_text("utf-8").endswith("\n"), "cron passes over a line without an end"
    *times, user, command = re.split(r" +", cron_line(), maxsplit=6)
    assert (len(times), user) == (5, "neuromirror")
    assert "%" not in command, "cron takes it for the end of the line"
    # the command, with another place and a program that only says how it was called
    environment = tmp_path / "environment"
    environment.write_text("NEUROMIRROR_STORE=somewhere\n")
    program = tmp_path / "neuromirror"
    program.write_text('#!/bin/sh\necho "$@" in "$NEUROMIRROR_STORE"; exec sleep "${FOR-0}"\n')
    program.chmod(0o755)
    command = command.replace("/etc/neuromirror/environment", str(environment))
    command = command.replace("/var/lib/neuromirror", str(tmp_path))
    given = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def run(**more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", "-c", command],
            env=given | more,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    with run(FOR="60") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "serve --once in somewhere\n"
        with run() as second:
            assert second.communicate()[0] == ""
            assert second.returncode == 0
        os.killpg(first.pid, signal.SIGTERM)
    # a killed process may hold the lock for another instant
    output = ""
    while not output:
        with run() as third:
            output = third.communicate()[0]
    assert output == "serve --once in somewhere\n"


# --- containers


def instructions() -> dict[str, str]:
    """The Containerfile's instructions, the last of a name."""
    text = re.sub(r"\\\n", "", CONTAINER.read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split(" ", 1) for line in lines)


def copied_into_the_container() -> set[str]:
    """Return the files and folders of the checkout that the Containerfile copies."""
    return {
        source
        for line in CONTAINER.read_text("utf-8").splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    }


def test_the_container_gets_all_files_that_its_installation_needs() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert ignored[0] == "*"
    copied = copied_into_the_container()
    assert {"setup.cfg", "requirements", "src"} <= copied
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored
    setup = (ROOT / "setup.cfg").read_text("utf-8")
    assert set(re.findall(r"(?:file:|license_files =) (\S+)", setup)) <= copied


def test_the_container_is_made_of_verified_parts() -> None:
    text = re.sub(r"\\\n", "", CONTAINER.read_text("utf-8"))
    assert re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", instructions()["FROM"])
    installations = re.findall(r"\$pip (.*?)(?:&&|$)", text, re.MULTILINE)
    assert len(installations) == 3
    for options in installations:
        assert "--require-hashes" in options or {"--no-deps", "--no-build-isolation"} <= set(
            options.split()
        )


def test_wheel_and_sdist_are_complete(tmp_path: Path) -> None:
    """Build them from the files that the container gets."""
    tree = tmp_path / "tree"
    tree.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in copied_into_the_container():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tree / name)
    build = (
        "import sys; from setuptools import build_meta; folder = sys.argv[1];"
        "build_meta.build_sdist(folder); build_meta.build_wheel(folder)"
    )
    built = tmp_path / "built"
    built.mkdir()
    subprocess.run(
        [sys.executable, "-c", build, str(built)], cwd=tree, check=True, capture_output=True
    )
    sources = {
        path.relative_to(ROOT / "src").as_posix(): path.read_bytes()
        for path in (ROOT / "src").rglob("*.*")
        if path.is_file() and not {"__pycache__", "neuromirror.egg-info"} & set(path.parts)
    }
    folder = "neuromirror/config/mirrors/"
    mirrors = {f"{folder}{path.name}": path.read_bytes() for path in (ROOT / "mirrors").iterdir()}
    expected = sources | mirrors
    assert len(mirrors) > 5
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    described = {name: members.pop(name) for name in list(members) if ".dist-info/" in name}
    assert members.keys() == expected.keys()
    assert members == expected
    (entry_points,) = [text for name, text in described.items() if "entry_points" in name]
    assert b"\nneuromirror = neuromirror.cli:" in entry_points
    # the sdist needs no file outside of it: it has files in place of the link to the folder above
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "sdist", filter="data")
    (unpacked,) = (tmp_path / "sdist").iterdir()
    assert not (unpacked / "src" / folder).is_symlink()
    for name, content in expected.items():
        assert (unpacked / "src" / name).read_bytes() == content, name


def test_a_container_is_healthy_while_the_loop_turns() -> None:
    check = instructions()["HEALTHCHECK"].partition(" CMD ")[2]
    program, option, code = ast.literal_eval(check)
    assert (program, option) == ("python3", "-c")
    now = [0.0]
    pulse = Heartbeat(30, clock=lambda: now[0])
    with HealthServer(("127.0.0.1", 0), heartbeat=pulse, problems=list, metrics=bytes) as server:
        command = [sys.executable, "-c", code.replace("9464", str(server.address[1]))]
        assert subprocess.run(command, check=False).returncode == 0
        now[0] = 60
        assert subprocess.run(command, check=False).returncode == 1
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


# --- Prometheus


def rules() -> list[dict[str, Any]]:
    found = YAML(typ="safe").load(ALERTS.read_text("utf-8"))
    assert set(found) == {"groups"}
    return [rule for group in found["groups"] for rule in group["rules"]]


@pytest.fixture
def figures(tmp_path: Path) -> dict[str, set[str]]:
    """The names of all samples, and the labels that they have."""
    store = Store.open(tmp_path / "store", create=True)
    with (
        open_recorder(store, store.index_path) as recorder,
        Schedule.open(store.schedule_path) as schedule,
    ):
        FailureLog(recorder).record_failure("list", "HTTP 503", "demo")
        metrics = Metrics(store, store.index_path, schedule, ["demo"])
        metrics.job_finished("visit", "demo", "failed", 1)
        metrics.housekeeping_finished("backup", True, 1)
        metrics.requests_sent("demo", {"host": Traffic(requests=1)})
        metrics.tick_finished(1)
        page = metrics.page().decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        # a family without a sample for now: one that has labels has one of these
        if not family.samples:
            found[family.name] = {"mirror", "task", "result", "vault"}
        for sample in family.samples:
            found[sample.name] = set(sample.labels)
    return found


def test_alerts_are_about_figures_and_commands_that_there_are(figures: dict[str, set[str]]) -> None:
    metrics = set()
    for rule in rules():
        expression = rule["expr"]
        assert expression.count("(") == expression.count(")")
        names = set(re.findall(r"\b(?:neuromirror|process)_\w+", expression))
        metrics |= names
        assert names or expression == 'up{job="neuromirror"} == 0'
        for name in names:
            assert name in figures, f"{rule['alert']}: {name}"
        labels = set().union(*(figures[name] for name in names)) | {"instance", "job"}
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        used |= set(re.findall(r"by \((\w+)\)", expression))
        used |= {name for name in re.findall(r"[{,]\s*(\w+)=~?\"", expression) if name != "job"}
        assert used <= labels, rule["alert"]
        for command in re.findall(r"\bneuromirror ([a-z][a-z-]+)", rule["annotations"]["action"]):
            assert command in main.commands, command
    for what in (
        "listing_last_success",
        "open_holds",
        "incidents",
        "jobs_total",
        "store_free_bytes",
    ):
        assert any(what in name for name in metrics), what
