"""The benchmark ``recrawl``: visit an unchanged dataset, compared with the listing alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.common import (
    Contender,
    expect,
    in_separate_process,
    median,
    report,
    run_contenders,
    sizes_option,
    timed,
)
from benchmarks.servers import DANDISET, Served, dandi_archive, listing_server, revisit, sync_once
from neuromirror.crawl import Mirror

DANDI_FILES = 30_000
"""Maximum for the demo archive, which generates its pages for each request."""


def list_bucket(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time the listing alone: every page is read and checked, and every row becomes a record."""
    with listing_server(count) as served:
        return median(lambda: timed(served.count)), {}


def visit_bucket(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time a whole visit of an unchanged bucket."""
    with mirrored(folder, count) as (_, mirror, store):
        seconds, peak = in_separate_process(revisit, mirror, store, "", False)
        return seconds, {"peak_mb": peak}


def visit_changed_bucket(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time a whole visit of a bucket with one changed object, without a memo."""
    with mirrored(folder, count) as (served, mirror, store):
        served.change(count // 2)
        served.count()
        seconds, peak = in_separate_process(_visit_once, mirror, store)
        return seconds, {"peak_mb": peak}


def _visit_once(mirror: Mirror, store: Path) -> float:
    mirror.open()  # so that imports are not timed
    return timed(partial(sync_once, mirror, store), status="ok")


@contextmanager
def mirrored(folder: Path, count: int) -> Iterator[tuple[Served, Mirror, Path]]:
    """Create a store with a bucket; yield the bucket, its mirror and the store's folder."""
    with listing_server(count) as served:
        mirror = served.mirror(folder / "mirrors")
        first = sync_once(mirror, folder / "store")
        expect(len(first.versions) == 1, f"the first sync made no version: {first}")
        yield served, mirror, folder / "store"


def list_dandi(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time the listing of a dandiset alone: pages are read and checked, rows become records."""
    with dandi_archive(folder, count) as mirror:
        source = mirror.open()

        def read() -> None:
            (version,) = source.versions(source.dataset(DANDISET))
            listing = source.listing(version, _AllKnown())
            for _ in listing.entries():
                pass
            listing.confirm_version()

        return median(lambda: timed(read)), {}


def visit_dandi(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time a deep visit of an unchanged dandiset."""
    with dandi_archive(folder, count) as mirror:
        name = f"{mirror.name}:{DANDISET}"
        sync_once(mirror, folder / "store", name)
        seconds, peak = in_separate_process(revisit, mirror, folder / "store", name, True)
        return seconds, {"peak_mb": peak}


class _AllKnown:
    """A context in which every object is known, as in a second visit: no object is requested."""

    memo: bytes | None = None
    workspace = Path()

    def locations(self, urls: Sequence[str]) -> list[Any]:
        from neuromirror.model import Location

        return [Location(f"{url}?versionId=1", "s3", "1") for url in urls]

    def contents(self, etags: Sequence[str]) -> list[Any]:
        return [None for _ in etags]


S3: dict[str, Contender] = {
    "neuromirror": visit_bucket,
    "listing": list_bucket,
    "neuromirror, one object changed": visit_changed_bucket,
}
DANDI: dict[str, Contender] = {"neuromirror": visit_dandi, "listing": list_dandi}


@click.command("recrawl")
@sizes_option(1_000_000)
def recrawl_bench(files: tuple[int, ...], *, as_json: bool) -> None:
    """Visit an unchanged bucket (and dandiset), compared with the listing alone."""
    report(_lines(files), as_json=as_json)


def _lines(files: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    for line in run_contenders("recrawl", S3, files, {}):
        yield {**line, "of": "S3"}
    for line in run_contenders("recrawl", DANDI, [min(DANDI_FILES, max(files))], {}):
        yield {**line, "of": "DANDI"}
