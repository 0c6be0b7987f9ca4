"""The benchmark ``requests``: the number of requests of a sync of a realistic archive."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.common import commit, write_section
from benchmarks.servers import expect

FIRST, UNCHANGED = "first sync", "unchanged sync"
_SHAPE = Path(__file__).resolve().parents[2] / "tests"


@click.command("requests")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON per sync.")
@click.option("--write", is_flag=True, help="Update docs/explanation/benchmarks.md.")
def requests_bench(*, as_json: bool, write: bool) -> None:
    """Count the requests of a first and of an unchanged sync of a realistic demo archive."""
    lines = _count()
    if as_json:
        for line in lines:
            click.echo(json.dumps(line))
    else:
        click.echo(_table(lines))
    if write:
        write_section("requests", _table(lines))


def _count() -> list[dict[str, Any]]:
    from neuromirror_demo import DemoArchive

    sys.path.insert(0, str(_SHAPE))  # the archive for which the tests limit the number of requests
    from support.realistic_archive import fill_like_a_real_archive

    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    lines = []
    with tempfile.TemporaryDirectory() as named:
        folder = Path(named)
        with DemoArchive(folder / "archive", empty=True) as archive:
            fill_like_a_real_archive(archive)
            drafts = [one.draft.assets for one in archive.dandisets.values()]
            for what in (FIRST, UNCHANGED):
                archive.clear_requests()
                _sync(folder / "store", archive.mirrors)
                lines.append(
                    {
                        "bench": "requests",
                        "what": what,
                        "dandisets": len(drafts),
                        "assets": sum(map(len, drafts)),
                        "api": len(archive.requests),
                        "s3": len(archive.s3_requests),
                        "requests": len(archive.requests) + len(archive.s3_requests),
                        "commit": commit(),
                    }
                )
    return lines


def _sync(store: Path, mirrors: Path) -> None:
    """Sync the whole archive once."""
    from neuromirror.crawl import Sync, load_mirrors, parse_sync_requests
    from neuromirror.store import Store

    opened = Store.open(store, create=True)
    results = list(
        Sync(opened, opened.index_path).results(parse_sync_requests([], load_mirrors(mirrors)))
    )
    wrong = [one for one in results if one.status not in ("ok", "notneeded")]
    expect(not wrong, f"the sync failed: {wrong[:1]}")


def _table(lines: Sequence[dict[str, Any]]) -> str:
    columns = {
        "what": "what",
        "dandisets": "dandisets",
        "assets": "assets",
        "api": "to the API",
        "s3": "to the bucket",
        "requests": "requests",
    }
    rows = [f"| {' | '.join(columns.values())} |", f"|---{'|---:' * (len(columns) - 1)}|"]
    rows += [
        "| "
        + " | ".join(f"{line[name]:,}" if name != "what" else line[name] for name in columns)
        + " |"
        for line in lines
    ]
    rows += ["", f"Counted at commit {lines[0]['commit']}."]
    return "\n".join(rows)
