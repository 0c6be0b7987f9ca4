"""Credentials reach only the processes that need them, and no command line."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from support.forked_commands import ForkedCommand
from support.lock_folders import PUBLISHED, LockFolder
from support.mirror_harness import MirrorHarness, run_git
from support.web_clone import WebClone

LOGIN = "ARCHIVE_LOGIN"
"""The variable that a mirror file names; its name does not suggest a secret."""
CANARY = "canary-5d1e77ab"
NAMES = "AWS_SECRET_ACCESS_KEY DANDI_API_KEY GITHUB_TOKEN NEUROMIRROR_TOKEN_HERE SMTP_PASSWORD"
CREDENTIALS = dict.fromkeys(NAMES.split(), CANARY)
RECORDING = """#!/bin/sh
cp /proc/$$/environ '{log}'/$$.environ
tr '\\0' ' ' < /proc/$$/cmdline > '{log}'/$$.argv
exec '{program}' "$@"
"""


class ProcessRecorder:
    """The environment and the command line of each process that a command started."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "log"
        self._bin = folder / "bin"
        self._log.mkdir(parents=True)
        self._bin.mkdir()
        self._sampled: dict[tuple[int, str], bytes] = {}
        for name in ("git", "git-annex", "datalad"):
            program = shutil.which(name)
            assert program is not None
            script = self._bin / name
            script.write_text(RECORDING.format(log=self._log, program=program))
            script.chmod(0o755)

    def run(self, *arguments: str | Path, cwd: Path, code: int = 0, **environment: str) -> None:
        """Run neuromirror, and record the processes below it."""
        path = f"{self._bin}{os.pathsep}{os.environ['PATH']}"
        with ForkedCommand(
            [str(argument) for argument in arguments],
            environment={**os.environ, **CREDENTIALS, **environment, "PATH": path},
            first=f"import os; os.chdir({str(cwd)!r})",
        ) as process:
            over = threading.Event()
            sampling = threading.Thread(target=self._sample, args=(process.pid, over))
            sampling.start()
            printed = process.communicate()
            over.set()
            sampling.join()
        assert process.returncode == code, printed

    def _sample(self, pid: int, over: threading.Event) -> None:
        while not over.wait(0.02):
            for child in _descendants(pid):
                try:
                    line, own = _line(child), _line(pid)
                    environment = Path(f"/proc/{child}/environ").read_bytes()
                except OSError:
                    continue
                # before exec, a child is a copy of its parent, and during exec it has no line;
                # the scripts start two programs
                if line not in ("", own) and not line.startswith(("cp /proc/", "tr \\0 ")):
                    self._sampled[child, line] = environment

    def processes(self) -> Iterator[tuple[str, bytes]]:
        """Command lines with their environments."""
        for path in self._log.glob("*.argv"):
            yield path.read_text(), path.with_suffix(".environ").read_bytes()
        for (_, line), environment in self._sampled.items():
            yield line, environment

    def holding(self, secret: str) -> set[str]:
        """The command lines of processes with a secret in their environment."""
        found = dict(self.processes())
        assert found
        assert not any(secret in line for line in found)
        return {line for line, environment in self.processes() if secret.encode() in environment}


def _line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def _descendants(pid: int) -> Iterator[int]:
    """Yield the children of a process and theirs, as long as they run."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                yield child
                yield from _descendants(child)


@pytest.fixture
def process_recorder(tmp_path: Path) -> ProcessRecorder:
    return ProcessRecorder(tmp_path / "recorded")


def test_no_child_of_a_sync_has_a_credential(
    demo: DemoArchive, tmp_path: Path, process_recorder: ProcessRecorder
) -> None:
    (mirror,) = demo.mirrors.glob("demo.toml")
    text = mirror.read_text("utf-8")
    options = f'[options]\ntoken_env = "{LOGIN}"\n'
    assert "[options]\n" in text
    mirror.write_text(text.replace("[options]\n", options))
    store = tmp_path / "store"
    named = ("--mirrors", demo.mirrors, "--store", store)
    process_recorder.run(*named, "sync", "demo:000002", cwd=tmp_path, **{LOGIN: demo.token})
    # git walks the history only if there is a ref that the journal does not have
    run_git(store / "alias" / "demo--000002", "update-ref", "refs/heads/other", "main")
    demo.change_file("000002", demo.paths("000002")[0])
    process_recorder.run(*named, "sync", "demo:000002", cwd=tmp_path, code=1, **{LOGIN: demo.token})
    assert process_recorder.holding(demo.token) == set()
    assert process_recorder.holding(CANARY) == set()


def test_of_a_restore_only_what_fetches_has_credentials(
    demo: DemoArchive, tmp_path: Path, process_recorder: ProcessRecorder
) -> None:
    mirror_harness = MirrorHarness(demo.mirrors, tmp_path / "store")
    mirror_harness.sync(PUBLISHED)
    paper = LockFolder(mirror_harness, tmp_path / "paper")
    paper.pin(PUBLISHED, bundle=True)
    process_recorder.run("restore", paper.file, "--into", "data", cwd=paper.folder)
    fetching = (" fetch ", "upload-pack", "index-pack", "unpack", " rev-list ")
    others = [
        line
        for line in process_recorder.holding(CANARY)
        if not any(command in line for command in fetching)
    ]
    assert others == []


def test_of_a_get_only_git_annex_that_gets_has_credentials(
    web_clone: WebClone, process_recorder: ProcessRecorder
) -> None:
    process_recorder.run("get", "small", cwd=web_clone.clone)
    assert process_recorder.holding(CANARY) == set()
