"""Benches: every contender in the same run, on the same input, each in a process of its own."""

from __future__ import annotations

import click
from bench_archive import archive_bench
from bench_clone import clone_bench
from bench_dandiset import dandiset_bench
from bench_delta import delta_bench
from bench_get import get_bench
from bench_hostile import hostile_bench
from bench_index import index_bench
from bench_mint import mint_bench
from bench_recrawl import recrawl_bench
from bench_s3 import s3_bench
from bench_verify import verify_bench
from bench_volume import volume_bench


@click.group()
def main() -> None:
    """Measures neuromirror beside its peers, in one run on one machine."""


for command in (
    mint_bench,
    delta_bench,
    recrawl_bench,
    s3_bench,
    hostile_bench,
    index_bench,
    clone_bench,
    archive_bench,
    dandiset_bench,
    verify_bench,
    volume_bench,
    get_bench,
):
    main.add_command(command)

if __name__ == "__main__":
    main()
