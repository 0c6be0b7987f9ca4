"""Commands in child processes, without the start of Python and the imports of each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest


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
    from support.command_child import run_command

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.command_child"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        forkserver.ensure_running()
    with _copied(out) as stdout, _copied(err) as stderr:
        process = context.Process(
            target=run_command, args=(arguments, dict(environment), stdout, stderr, first)
        )
        process.start()
    return process


def _copied(descriptor: int) -> Connection:
    """Return a copy of a file descriptor that can be sent to another process."""
    return Connection(os.dup(descriptor), readable=False)
