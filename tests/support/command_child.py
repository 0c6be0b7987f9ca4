"""A command in a child process, forked from one that has imported what commands need."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

from neuromirror.cli import main
from neuromirror.web.template_environment import template_environment

for _module in (
    "apscheduler.schedulers.background",
    "neuromirror.crawl",
    "neuromirror.lab",
    "neuromirror.net.guarded_connections",
    "neuromirror.service.catalogue_process",
    "neuromirror.service.logs",
    "neuromirror.service.metrics",
    "neuromirror.service.serve",
    "neuromirror.sources.dandi.source",
    "neuromirror.web.server.idle_timeout",
    "neuromirror.web.server.uvicorn_server",
    "markdown_it",
    "requests",
    "tqdm",
    "uvicorn",
):
    importlib.import_module(_module)
_commands = list(main.commands.values())
for _name in template_environment().list_templates():
    template_environment().get_template(_name)
# Commands do not copy the pages of these modules to collect garbage
gc.freeze()


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
    main(arguments, prog_name="neuromirror")


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
