"""Benches: every contender in the same run, on the same input, each in a process of its own.

A contender's process imports this module and that of its own bench: what the other benches need
must not count as its memory, so a bench is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module

import click

_BENCHES = (
    "mint",
    "delta",
    "recrawl",
    "latency",
    "requests",
    "s3",
    "hostile",
    "index",
    "clone",
    "archive",
    "dandiset",
    "verify",
    "volume",
    "get",
    "first",
    "fanout",
    "pin",
    "soak",
    "web",
)


class _Benches(click.Group):
    """Each bench is the command ``<name>_bench`` of the module ``benchmarks.<name>``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_BENCHES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _BENCHES:
            return None
        found = getattr(import_module(f"benchmarks.{cmd_name}"), f"{cmd_name}_bench")
        assert isinstance(found, click.Command)
        return found


@click.group(cls=_Benches)
def main() -> None:
    """Measures neuromirror beside its peers, in one run on one machine."""


if __name__ == "__main__":
    main(prog_name="scripts/bench")
