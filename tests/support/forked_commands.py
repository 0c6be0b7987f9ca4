"""Commands and functions in child processes that need not import neuromirror again."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

from support.command_child import run_command, send_result


def fork_command(
    arguments: Sequence[str],
    out: int,
    err: int,
    *,
    environment: Mapping[str, str] = os.environ,
    first: str = "pass",
) -> BaseProcess:
    """Start ``neuromirror`` with these arguments; ``out`` and ``err`` are file descriptors.

    ``first`` are Python statements to execute before.
    """
    context = running_forkserver()
    with _copied(out) as stdout, _copied(err) as stderr:
        process = context.Process(
            target=run_command, args=(arguments, dict(environment), stdout, stderr, first)
        )
        process.start()
    return process


def call_in_child(function: Callable[..., Any], *arguments: object) -> tuple[int | None, Any]:
    """Call a function in a child process with this environment; return exit code and result.

    The result is None if the child died.
    """
    context = running_forkserver()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=send_result, args=(dict(os.environ), sender, function, arguments)
    )
    process.start()
    sender.close()
    result = None
    with receiver, suppress(EOFError):
        result = receiver.recv()
    process.join()
    return process.exitcode, result


def running_forkserver() -> ForkServerContext:
    """Return the context of processes that are forked from one that has imported neuromirror."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.forked_commands", "support.command_modules"])
    environment = dict(os.environ)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(environment)
    return context


def _copied(descriptor: int) -> Connection:
    """Return a copy of a file descriptor that can be sent to another process."""
    return Connection(os.dup(descriptor), readable=False)


class ForkedCommand:
    """A command in a child process, with the methods of a :class:`subprocess.Popen`.

    Its output goes to temporary files, unless file descriptors are given.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        stdout: int | None = None,
        stderr: int | None = None,
        first: str = "pass",
    ) -> None:
        # closed at the end of the block
        self._out = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._err = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._process = fork_command(
            arguments,
            self._out.fileno() if stdout is None else stdout,
            self._err.fileno() if stderr is None else stderr,
            environment=environment,
            first=first,
        )

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 600) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None, "the command does not exit"
        return self._process.exitcode

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Wait for the command, and return what it wrote to stdout and stderr."""
        self.wait(timeout)
        self._out.seek(0)
        self._err.seek(0)
        return self._out.read(), self._err.read()

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the command has exited."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._out.close()
        self._err.close()
