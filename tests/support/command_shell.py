"""Run neuromirror commands, in this process or as a program."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from neuromirror.cli import main
from support.forked_commands import ForkedCommand

PROGRAM = [sys.executable, "-m", "neuromirror"]
INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from neuromirror.cli import main; main()"
)
"""Handles SIGINT as on a terminal; background processes ignore it by default."""
STATUS = {"ok", "notneeded", "impossible", "error"}

_TRAFFIC_LINE = re.compile(r"^neuromirror: [a-z0-9-]+: [0-9]+ requests?, .*\n", re.M)


@dataclass(frozen=True)
class CommandResult:
    """The exit code and the output of a command.

    ``traffic_lines`` are the request summaries of a sync, which are removed from ``err``.
    """

    code: int
    out: str
    err: str
    traffic_lines: tuple[str, ...]

    @classmethod
    def from_output(cls, code: int, out: str, err: str) -> CommandResult:
        return cls(
            code,
            out,
            _TRAFFIC_LINE.sub("", err),
            tuple(map(str.rstrip, _TRAFFIC_LINE.findall(err))),
        )

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def error_line(self) -> str:
        """Return the only line on stderr; fails for another number of lines, or a traceback."""
        assert "Traceback" not in self.out + self.err, self.err
        (line,) = self.err.splitlines()
        return line


@dataclass(frozen=True)
class Shell:
    """A folder of mirror files, a store, environment variables, and the encoding of the output."""

    mirrors: Path
    store: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    encoding: str = "utf-8"

    def with_changes(self, **changes: Any) -> Shell:
        """Return a copy with other mirror files, store or variables."""
        return replace(self, **changes)

    def _environment(self) -> dict[str, str]:
        return {
            "NEUROMIRROR_MIRRORS": str(self.mirrors),
            "NEUROMIRROR_STORE": str(self.store),
            **self.variables,
        }

    def run(self, *arguments: str, code: int = 0) -> CommandResult:
        """Run a command in this process and check its exit code."""
        done = self.run_any(*arguments)
        assert done.code == code, (done.code, done.out, done.err)
        return done

    def run_any(self, *arguments: str) -> CommandResult:
        """Run a command in this process."""
        done = CliRunner(charset=self.encoding).invoke(
            main, arguments, env=self._environment(), prog_name="neuromirror",
            catch_exceptions=False,
        )  # fmt: skip
        return CommandResult.from_output(done.exit_code, done.stdout, done.stderr)

    def records(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """Run a command with ``--json``; check that each line is a DataLad result record."""
        found = [json.loads(line) for line in self.run("--json", *arguments, code=code).lines]
        command = next(argument for argument in arguments if not argument.startswith("-"))
        for record in found:
            assert record["action"] == command
            assert record["status"] in STATUS
            assert isinstance(record["message"], str)
        return found

    def start(self, *arguments: str, **options: Any) -> ForkedCommand:
        """Start a command in another process, with options of :class:`ForkedCommand`."""
        environment = {**os.environ, **self._environment(), **options.pop("env", {})}
        return ForkedCommand(arguments, environment=environment, **options)

    def program(self, *arguments: str, code: int = 0, **options: Any) -> CommandResult:
        """Run a command in another process and check its exit code."""
        with self.start(*arguments, **options) as process:
            out, err = process.communicate()
        assert process.returncode == code, (process.returncode, out, err)
        return CommandResult.from_output(process.returncode, out, err)


UNPRIVILEGED = {"first": "from support import command_child; command_child.drop_root_privileges()"}
"""Options of :meth:`Shell.program` for a user to whom file permissions apply."""


def folder_snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content by path, without the temporary files of an open index."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith(("-shm", "-wal", ".sqlite.lock"))
    }


def write_mirror_file(folder: Path, name: str, content: str) -> Path:
    """Write a mirror file; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(content, "utf-8")
    return folder


def api_mirror_settings(address: str, *more: str) -> str:
    """Return the content of a mirror file for a DANDI API."""
    return "\n".join(['source = "dandi"', "[options]", f'api = "{address}"', *more, ""])
