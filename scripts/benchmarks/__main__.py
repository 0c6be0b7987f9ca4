"""Benchmarks: all programs in the same run, with the same input, each in its own process.

The process of a program imports this module and the module of its benchmark. The modules of other
benchmarks are imported on demand, so that they do not count as its memory.
"""

from __future__ import annotations

from importlib import import_module

import click

_BENCHES = (
    "mint",
    "delta",
    "recrawl",
    "s3",
    "dandiset",
    "verify",
    "volume",
    "get",
    "keep",
    "restore",
    "stream",
    "web",
)


class _Benches(click.Group):
    """Each benchmark is the command ``<name>_bench`` of the module ``benchmarks.<name>``."""

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
    """Compare neuromirror with other programs, in one run on one machine."""


if __name__ == "__main__":
    main(prog_name="scripts/bench")
