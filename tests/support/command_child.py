"""Entry points of child processes, without imports that their parents do not need."""

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any


def run_command(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    out: Connection,
    err: Connection,
    first: str,
) -> None:
    """Run ``neuromirror`` with these arguments, as if this process had been started for it.

    ``first`` are Python statements to execute before.
    """
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    exec(first, {})
    from neuromirror.cli import main

    main(arguments, prog_name="neuromirror")


def send_result(
    environment: Mapping[str, str],
    sender: Connection,
    function: Callable[..., Any],
    arguments: tuple[object, ...],
) -> None:
    """Call a function with this environment, and send its result."""
    os.environ.clear()
    os.environ.update(environment)
    sender.send(function(*arguments))


def drop_root_privileges() -> None:
    """Drop the privileges of root, so that file permissions apply, also to child processes."""
    if os.geteuid() == 0:
        libc, drop_from_bounding_set, dac_override, dac_read_search = ctypes.CDLL(None), 24, 1, 2
        header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        libc.capget(header, sets)
        for capability in (dac_override, dac_read_search):
            libc.prctl(drop_from_bounding_set, capability, 0, 0, 0)
            for effective_or_permitted in (0, 1):
                sets[effective_or_permitted] &= ~(1 << capability)
        assert libc.capset(header, sets) == 0
