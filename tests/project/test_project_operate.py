"""Every command of the how-to for operators works, and gives what it shows.

Paths of the system stand for folders of the test's own, DANDI's address for a demo archive's, and
``systemctl`` for a few lines that do with the unit what systemd does.
"""

import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from neuromirror.cli import main
from neuromirror.config.mirror_files import load_mirror
from neuromirror.crawl import open_recorder
from neuromirror.index import Schedule
from neuromirror.service.metrics import Metrics
from neuromirror.store import Store
from neuromirror_demo import DemoArchive
from support.documented_commands import Step, blocks, check_output
from support.terminal import Terminal, neighbouring_ports

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operate.md"
PORT, PAGES = 9464, 8270
FOLDERS = ("/etc/", "/srv/", "/var/lib/", "/usr/local/")
MARKS = {"", "needs root", "needs systemd", "needs a container engine"}
SYSTEMD = "needs systemd"
CODES = {"neuromirror holds": 3}


def steps() -> Iterator[tuple[str, Step]]:
    """Yield the commands of the page, each with the mark of its block."""
    for block in blocks("operate.md"):
        if block.language == "console":
            for step in block.steps():
                yield block.mark, step


def block_of(language: str) -> str:
    """Return the only block of the page in a language."""
    (found,) = [block.body for block in blocks("operate.md") if block.language == language]
    return found


def test_what_is_not_run_fits_unit_container_and_checkout() -> None:
    left = [step.command for mark, step in steps() if mark]
    assert {mark for mark, _ in steps()} == MARKS
    assert not [command for command in left if command.startswith("neuromirror")]
    unit = (ROOT / "scripts" / "systemd" / "neuromirror.service").read_text("utf-8")
    container = (ROOT / "Containerfile").read_text("utf-8")
    for command in left:
        words = shlex.split(command)
        match words[0]:
            case "cp":
                assert all((ROOT / source).is_file() for source in words[1:-1]), command
            case "useradd" | "install":
                assert "User=neuromirror\nGroup=neuromirror\n" in unit
                assert all(name in unit for name in re.findall(r" (/(?:srv|var)\S+)", command))
            case "podman":
                for outside, inside in re.findall(r"--publish 127.0.0.1:(\d+):(\d+)", command):
                    assert outside == inside
                for folder in re.findall(r"--volume \S+?:([^: ]+)", command):
                    assert folder in container
            case "/usr/local/lib/neuromirror/bin/pip":
                for extra in words[-1].removeprefix(".[").rstrip("]").split(","):
                    assert f"\n{extra} =\n" in (ROOT / "setup.cfg").read_text("utf-8")
            case "ln" if words[-1].startswith("/usr/local/"):
                assert f"ExecStart={words[-1]} serve" in unit
    assert f"EXPOSE {PORT} {PAGES}\n" in container
    (upstream,) = re.findall(r"proxy_pass http://(\S+);", block_of("nginx"))
    assert f"--catalogue {upstream} " in unit


# --- executed commands


class Systemd:
    """Does with the unit what systemd does, as far as the how-to has it do anything."""

    def __init__(self, unit: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self._unit = unit
        self._environment = environment
        self._socket = folder / "notify"
        self._listening: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder / "journal"

    def control(self, command: str) -> None:
        """A line of systemctl's."""
        match shlex.split(command)[1:]:
            case ["daemon-reload"] | ["edit", "neuromirror"]:
                assert self._unit.is_file()
            case ["enable", "--now", "neuromirror"] | ["start", "neuromirror"]:
                self.start()
            case ["stop", "neuromirror"]:
                self.stop()
            case ["restart", "neuromirror"]:
                self.stop()
                self.start()
            case ["reload", "nginx"]:
                pass
            case ["status", "neuromirror"]:
                assert self._process is not None
                assert self._process.poll() is None
            case _:
                pytest.fail(f"{command} is not understood here")

    def _settings(self, name: str) -> list[str]:
        lines = self._unit.read_text().splitlines()
        return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]

    def start(self) -> None:
        assert self._process is None
        (file,), (command,) = self._settings("EnvironmentFile"), self._settings("ExecStart")
        (watchdog,) = self._settings("WatchdogSec")
        lines = [line for line in Path(file).read_text().splitlines() if not line.startswith("#")]
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listening.settimeout(120)
        self._socket.unlink(missing_ok=True)
        self._listening.bind(str(self._socket))
        program, *arguments = shlex.split(command)
        found = shutil.which(Path(program).name, path=self._environment["PATH"])
        assert found is not None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [found, *arguments],
                env={
                    **self._environment,
                    **dict(line.split("=", 1) for line in lines),
                    "NOTIFY_SOCKET": str(self._socket),
                    "WATCHDOG_USEC": str(int(watchdog.removesuffix("min")) * 60_000_000),
                },
                stdout=log,
                stderr=log,
            )
        # its log says why nothing came
        states = {self._listening.recv(4096).split(b"\n")[0] for _ in range(2)}
        assert states == {b"READY=1", b"WATCHDOG=1"}, self.log.read_text()

    def stop(self) -> None:
        if self._process is None or self._listening is None:
            return
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(timeout=45) == 0, self.log.read_text()
        self._process = None
        while b"STOPPING=1" not in self._listening.recv(4096):
            pass
        self._listening.close()


@dataclass
class Machine:
    """A checkout, a terminal in it, an archive and a systemd, with folders of their own."""

    demo: DemoArchive
    folder: Path
    port: int
    pages: int
    terminal: Terminal
    systemd: Systemd
    hold: str = "no hold yet"

    def mapped(self, text: str) -> str:
        """A text with the places of this machine in it."""
        text = text.replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{self.port}")
        text = text.replace(f"127.0.0.1:{PAGES}", f"127.0.0.1:{self.pages}")
        text = text.replace("release HOLD", f"release {self.hold}")
        for name in FOLDERS:
            text = text.replace(name, f"{self.folder}{name}")
        return text

    def do(self, mark: str, step: Step) -> None:
        if mark == SYSTEMD and step.command.startswith("systemctl "):
            self.systemd.control(step.command)
            return
        if mark and not (mark == SYSTEMD and step.command.startswith("cp ")):
            return
        if step.command == "neuromirror holds":
            self._lose_files()
        check_output(
            self.terminal,
            self.mapped(step.command),
            tuple(map(self.mapped, step.shown)),
            CODES.get(step.command, 0),
        )

    def _lose_files(self) -> None:
        """The archive loses more of a dandiset than the guards allow, and a sync sees it.

        But not before the service has seen it whole.
        """
        count = len(self.demo.dandisets) - sum(
            dandiset.embargoed for dandiset in self.demo.dandisets.values()
        )
        while len(self.terminal.type("neuromirror --json list")) < count:
            time.sleep(0.5)
        for path in sorted(self.demo.dandisets["000001"].draft.assets)[:2]:
            self.demo.remove_file("000001", path)
        self.terminal.type("neuromirror sync dandi:000001 2>/dev/null || test $? = 3")
        (line,) = self.terminal.type("neuromirror --json holds || test $? = 3")
        found = re.search(r'"hold": ?"([^"]+)"', line)
        assert found is not None
        self.hold = found[1]


@contextmanager
def machine(demo: DemoArchive, folder: Path) -> Iterator[Machine]:
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in FOLDERS:
        (folder / name.strip("/")).mkdir(parents=True)
    (folder / "etc/systemd/system").mkdir(parents=True)
    port = neighbouring_ports(2)
    unit = folder / "etc/systemd/system/neuromirror.service"
    terminal = Terminal(checkout)
    systemd = Systemd(unit, folder, terminal.environment)
    made = Machine(demo, folder, port, port + 1, terminal, systemd)
    for path in [
        *(ROOT / "scripts" / "systemd").iterdir(),
        ROOT / "scripts" / "cron" / "neuromirror",
        ROOT / "mirrors" / "dandi.toml",
    ]:
        copy = checkout / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text("utf-8").replace("https://api.dandiarchive.org/api", demo.api_url)
        # its dandisets have four files or so
        text = text.replace("max_removed_files = 10", "max_removed_files = 1")
        copy.write_text(made.mapped(text))
    try:
        yield made
    finally:
        systemd.stop()
        terminal.close()


def test_every_command_of_the_how_to_gives_what_it_shows(demo: DemoArchive, tmp_path: Path) -> None:
    with machine(demo, tmp_path) as here:
        for mark, step in steps():
            here.do(mark, step)
        log = here.systemd.log.read_text()
    assert '"event": "started"' in log
    assert "neuromirror serve" not in log
    # the mirror file that the how-to made is right
    mirror = load_mirror(tmp_path / "etc/neuromirror/mirrors/dandi.toml")
    assert (mirror.settings.net.contact, mirror.settings.schedule.list_minutes) == (
        "mailto:you@example.org",
        30,
    )


def test_the_prometheus_example_scrapes_the_address_of_the_unit() -> None:
    text = PAGE.read_text("utf-8")
    configuration = YAML(typ="safe").load(block_of("yaml"))
    (job,) = configuration["scrape_configs"]
    unit = (ROOT / "scripts" / "systemd" / "neuromirror.service").read_text("utf-8")
    (target,) = job["static_configs"][0]["targets"]
    assert f"--metrics {target} " in unit
    assert f"cp scripts/alerts.yml {configuration['rule_files'][0]}" in text
    alerts = (ROOT / "scripts" / "alerts.yml").read_text("utf-8")
    # the rules ask for figures of the job by its name
    assert set(re.findall(r'job="(\w+)"', alerts)) == {job["job_name"]}


def test_every_alert_is_explained() -> None:
    names = set(re.findall(r"- alert: (\w+)", (ROOT / "scripts" / "alerts.yml").read_text("utf-8")))
    assert names == set(re.findall(r"`(Neuromirror\w+)`", PAGE.read_text("utf-8")))


def test_the_log_has_the_fields_that_the_how_to_names() -> None:
    from neuromirror.service import logs

    text = PAGE.read_text("utf-8")
    for name in ("time", "level", "message", *logs._FIELDS):
        assert f"`{name}`" in text


def test_the_figures_that_the_how_to_names_are_there(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    with open_recorder(store, store.index_path), Schedule.open(store.schedule_path) as schedule:
        page = Metrics(store, store.index_path, schedule, []).page().decode()
    names = set(re.findall(r"`(neuromirror_[a-z_]+)`", PAGE.read_text("utf-8")))
    assert len(names) > 10
    assert {name for name in names if f"# HELP {name} " not in page} == set()


def test_commands_in_running_text_are_ones_that_there_are() -> None:
    for name in re.findall(r"`neuromirror ([a-z][a-z-]*)", PAGE.read_text("utf-8")):
        assert name in main.commands
