"""Every command of the tutorial works, and gives what the tutorial shows."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
DOCS = PAGE.parent
PORTS = (8765, 8766)
_BLOCK = re.compile(r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```console\n(?P<body>.*?)^```$", re.M | re.S)
_IN_ANY_ORDER = "neuromirror sync"
_END = "--- that was the command ---"


@dataclass(frozen=True)
class Step:
    """A command, and the lines that the page shows below it."""

    command: str
    shown: tuple[str, ...]


def steps(text: str, mark: str | None) -> list[Step]:
    """The commands of all blocks with a mark before them (None: with none)."""
    found = []
    for block in _BLOCK.finditer(text):
        if block["mark"] != mark:
            continue
        assert block["body"].startswith("$ "), block["body"]
        for part in re.split(r"^\$ ", block["body"], flags=re.M)[1:]:
            command, *shown = part.splitlines()
            found.append(Step(command, tuple(shown)))
    return found


def matches(shown: tuple[str, ...], came: list[str]) -> bool:
    """Whether lines are as shown; ``…`` stands for anything, alone in a line for any lines."""
    parts = [
        r"(?:[^\n]*\n)*?" if line == "…" else f"{'.*?'.join(map(re.escape, line.split('…')))}\n"
        for line in shown
    ]
    return re.fullmatch("".join(parts), "".join(f"{line}\n" for line in came)) is not None


def neighbouring_ports(count: int) -> int:
    """The first of so many ports in a row that are free.

    They are outside of the ephemeral port range (from 32768 or 49152 on):
    other tests take such all the time, and would have taken one before it is used.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with ExitStack() as taken:
            try:
                for one in range(port, port + count):
                    taken.enter_context(socket.socket()).bind(("127.0.0.1", one))
            except OSError:
                continue
            return port


@contextmanager
def archive(command: str, folder: Path) -> Iterator[str]:
    """The server of the first terminal, ended as the tutorial says; gives what it printed."""
    with subprocess.Popen(
        f"exec {command}", shell=True, cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline()
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=600) == 0


class Terminal:
    """A shell in a folder that keeps its variables and its place, as a person's does."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "DATALAD_UI_PROGRESSBAR": "none"},
        )

    def type(self, command: str) -> list[str]:
        """Runs a command; gives its lines. Fails where the command does."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        # not from the shell's own stdin, which holds the next command
        stdin.write(f"{{ {command}\n}} </dev/null; printf '\\n%s %s\\n' '{_END}' $?\n")
        stdin.flush()
        lines: list[str] = []
        for line in stdout:
            if line.startswith(_END):
                break
            lines.append(line.removesuffix("\n"))
        # the end mark has a line of its own, whether or not the command ended its last
        if lines and lines[-1] == "":
            lines.pop()
        assert line == f"{_END} 0\n", f"$ {command}\n" + "\n".join([*lines, line])
        return lines

    def close(self) -> None:
        self._process.communicate()


def test_every_command_of_the_tutorial_gives_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a user has no settings and no git identity: those of the demo must do
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL")
    port = neighbouring_ports(5)
    text = PAGE.read_text("utf-8")
    for number, free in zip(PORTS, (port, port + 1), strict=True):
        text = text.replace(str(number), str(free))
    (server,) = steps(text, "first terminal")
    typed = steps(text, None)
    assert len(typed) > 20
    # the id of a dataset depends on its archive's address, and so on the port
    text_of_id = re.compile(r"(?<=dataset id   )\S+")
    with archive(server.command, tmp_path) as announced:
        json.loads(announced)
        assert matches(server.shown, [announced.rstrip("\n")]), announced
        terminal = Terminal(tmp_path)
        try:
            for step in typed:
                shown = tuple(text_of_id.sub("…", line) for line in step.shown)
                came = terminal.type(step.command)
                if step.command.startswith(_IN_ANY_ORDER):
                    shown, came = tuple(sorted(shown)), sorted(came)
                assert matches(shown, came), f"$ {step.command}\n" + "\n".join(came)
        finally:
            terminal.close()


def test_the_tutorial_marks_what_is_not_run() -> None:
    text = PAGE.read_text("utf-8")
    assert {block["mark"] for block in _BLOCK.finditer(text)} == {
        None,
        "not run",
        "first terminal",
    }
    assert text.count("```console") == len(_BLOCK.findall(text))
    for step in steps(text, "not run"):
        if step.command.startswith("neuromirror"):
            assert "dandi" in step.command


@pytest.mark.parametrize(
    ("shown", "came", "same"),
    [
        (("a", "…", "z"), ["a", "b", "c", "z"], True),
        (("a", "…", "z"), ["a", "z"], True),
        (("a …", "z"), ["a 1", "z"], True),
        (("a …", "z"), ["a 1", "y", "z"], False),
        (("a",), ["a", "b"], False),
        ((), [], True),
        ((), ["b"], False),
        (("a.c",), ["abc"], False),
    ],
)
def test_what_is_shown_is_compared(shown: tuple[str, ...], came: list[str], same: bool) -> None:
    assert matches(shown, came) is same


def test_mirror_files_in_the_docs_are_right(tmp_path: Path) -> None:
    from neuromirror.crawl import load_mirror

    blocks = re.findall(
        r"^```toml\n(.*?)^```$", (DOCS / "reference" / "mirrors.md").read_text("utf-8"), re.M | re.S
    )
    assert len(blocks) >= 3
    for block in blocks:
        (tmp_path / "one.toml").write_text(block, "utf-8")
        assert load_mirror(tmp_path / "one.toml").open().uri.startswith("https://")


def test_every_setting_is_explained() -> None:
    schema = json.loads((DOCS / "reference" / "mirror.schema.json").read_text("utf-8"))
    page = (DOCS / "reference" / "mirrors.md").read_text("utf-8")
    names = set(schema["properties"])
    for table in ("GuardSettings", "NetSettings", "ZarrLimits"):
        names |= set(schema["$defs"][table]["properties"])
    for one in schema["allOf"]:
        names |= set(one["then"]["properties"]["options"]["properties"])
    assert len(names) >= 11
    assert {
        name for name in names if f"`{name}`" not in page and f"`[{name}]`" not in page
    } == set()


def test_the_output_in_the_readme_is_that_of_the_tutorial() -> None:
    readme = (DOCS.parent / "README.md").read_text("utf-8")
    (block,) = re.findall(r"^```console\n(.*?)^```$", readme, re.M | re.S)
    lines = PAGE.read_text("utf-8").splitlines()
    assert [one for one in block.splitlines() if one not in lines] == []
