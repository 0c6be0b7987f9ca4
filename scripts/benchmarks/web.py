"""The benchmark ``web``: eight concurrent clients request every kind of page of the catalogue."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import click

from benchmarks.common import commit, expect, json_option, machine, report
from benchmarks.synthetic_metadata import FAMILY_NAMES, REGIONS, TOPICS
from benchmarks.web_store import TERMS, Made, Sizes, ready
from neuromirror.index import Index
from neuromirror.web.addresses import (
    checksums_address,
    dataset_address,
    diff_address,
    file_address,
    find_address,
    search_address,
    version_address,
)
from neuromirror_demo.walkthrough import first_line

CLIENTS = 8
_ADDRESSES = 2000
_TICK = os.sysconf("SC_CLK_TCK")
_SCRIPT = Path(__file__).with_name("web.lua")
_DEFAULT_CACHE = Path("~/.cache/neuromirror-bench")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its address and its process."""

    address: str
    pid: int

    def memory_mb(self) -> float:
        """Return the memory of the process and its children, shared memory counted once."""
        total = 0
        for pid in (self.pid, *_children(self.pid)):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return round(total / 1024, 1)

    def cpu(self) -> float:
        """Return the CPU seconds of the process and its children."""
        used = 0
        for pid in (self.pid, *_children(self.pid)):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += sum(int(field) for field in fields[11:15])
        return used / _TICK


def _children(pid: int) -> list[int]:
    found = []
    # processes that a thread started are those of the thread
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError):  # the thread has ended
            found += map(int, children.read_text().split())
    return found


@contextmanager
def _running(command: list[str], address: Callable[[str], str]) -> Iterator[Server]:
    """Run a server on loopback; ``address`` finds its address in the first line of its output."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = first_line(process)
            expect(bool(line), f"{command[0]} did not start; see above")
            yield Server(address(line), process.pid)
        finally:
            process.terminate()


def catalogue(made: Made) -> Any:
    """Run ``neuromirror catalogue``."""
    own = [sys.executable, "-m", "neuromirror", "--json", "--store", str(made.store)]
    own += ["--index", str(made.index), "catalogue", "--listen", "127.0.0.1:0"]
    # the benchmark is a single client
    own += [f"--limit={kind}=0" for kind in ("cutout", "diff", "search")]
    return _running(own, lambda line: str(json.loads(line)["url"]))


def _page(server: Server, address: str) -> bytes:
    request = urllib.request.Request(server.address + address, headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return bytes(reply.read())


# --- requests


def kinds(made: Made) -> dict[str, list[str]]:
    """Return URLs of each kind of page, in random order."""
    drawn = random.Random(9)
    with Index.open_readonly(made.index) as index:
        names = [row.name for row in index.datasets.select(subdatasets=False)]
        drawn_names = [drawn.choice(names) for _ in range(_ADDRESSES)]
        versions = {
            name: [one.label for one in index.versions.of(name)] for name in set(drawn_names)
        }
        pairs = [(name, drawn.choice(versions[name])) for name in drawn_names if versions[name]]
        files = []
        for name, label in pairs:
            row = index.versions.resolve(name, label)
            after = f"sub-{drawn.choice(TERMS)}" if name != made.large else "recordings/day-0"
            some = list(index.files.of(row, after=after, limit=3)) or list(
                index.files.of(row, limit=3)
            )
            files += [(name, label, one) for one in some]
        large = [one.label for one in index.versions.of(made.large)]
        newest = index.versions.resolve(made.large)
        days = [one.path for one in index.files.folder_entries(newest, "recordings", max_counted=0)]
        inside = [
            (drawn.choice(days), drawn.randrange(10_000)) for _ in range(min(200, _ADDRESSES))
        ]
        subjects = sorted(
            {
                value
                for name in islice(dict.fromkeys(drawn_names), 400)
                for value in index.versions.attributes(index.versions.resolve(name)).get(
                    "subject", []
                )
            }
        )
        changed = [
            (name, versions[name][at - 1], versions[name][at])
            for name, label in pairs
            if (at := versions[name].index(label)) and name != made.large
        ]
    found = {
        "front": ["/"],
        "changes": ["/changes"],
        "search, words": [
            search_address(f"{one} {other}") for one in TERMS for other in TERMS if one != other
        ],
        "search, topics": [
            search_address(f"{region} {topic}") for region in REGIONS for topic in TOPICS
        ],
        "search, people": [search_address(name) for name in FAMILY_NAMES],
        "search, facets": [
            search_address(terms, [*filters], sort, page)
            for terms in ("", "learning", "mouse", *REGIONS)
            for filters in (
                (),
                (("species", "Mus musculus"),),
                (("archive", "dandi"), ("species", "Homo sapiens"), ("status", "published")),
            )
            for sort in ("", "size")
            for page in (1, 2)
        ],
        "search, subject": [search_address(subject) for subject in subjects],
        "search, path": [
            search_address(f"sub-{term}{number:03d}") for term in TERMS for number in range(40)
        ],
        "dataset": [dataset_address(name) for name in drawn_names],
        "dataset, 300 versions": [dataset_address(made.long)],
        "version": [version_address(*pair) for pair in pairs],
        "version, folder of 10,000": [
            version_address(made.large, large[-1], day, f"{day}/trace-{start:06d}.nwb")
            for day, start in inside
        ],
        "version, 500,000 files": [
            version_address(made.large, label, under)
            for label in large
            for under in ("", "recordings")
        ],
        "file": [file_address(name, label, one.path) for name, label, one in files],
        "find": [
            find_address(f"{one.digests[0].algorithm}:{one.digests[0].value}")
            for _, _, one in files
        ],
        "diff": [diff_address(f"{name}@{a}", f"{name}@{b}") for name, a, b in changed],
        "events": ["/events", "/events?kind=incident"],
        "mirrors": ["/mirrors"],
        "feed": ["/feed.atom", *(f"/feed/{quote(name, safe=':')}.atom" for name in drawn_names)],
        "api, files": [
            f"/api/v1{version_address(*pair)}/files?limit=100".replace("/dataset/", "/datasets/")
            for pair in pairs
        ],
        "api, datasets": [
            f"/api/v1/datasets?limit=100&{given}"
            for given in ("", "mirror=dandi", "mirror=aind", *(f"q={term}" for term in TERMS))
        ],
        "sitemap": ["/sitemap.xml"],
        "badge": [f"/badge{version_address(*pair)[len('/dataset') :]}.svg" for pair in pairs],
        "checksums": [checksums_address(*pair) for pair in pairs if pair[0] == made.long]
        or [checksums_address(made.long, "latest")],
    }
    for addresses in found.values():
        drawn.shuffle(addresses)
    return found


# --- measuring


def wrk(server: Server, addresses: list[str], seconds: int, folder: Path) -> dict[str, Any]:
    """Return wrk's results for a page: eight clients, each with one request at a time."""
    listed = folder / "addresses"
    listed.write_text("".join(f"{address}\n" for address in addresses))
    command = ["wrk", "--threads=1", f"--connections={CLIENTS}", f"--duration={seconds}s"]
    command += ["--timeout=30s", "--latency", f"--script={_SCRIPT}", server.address]
    before = server.cpu()
    done = subprocess.run(
        command,
        env={**os.environ, "BENCH_ADDRESSES": str(listed)},
        capture_output=True,
        text=True,
        check=False,
    )
    expect(done.returncode == 0, f"wrk failed: {done.stdout}{done.stderr}")
    result = json.loads(done.stdout.splitlines()[-1])
    count = max(1, result["requests"])
    return {
        "median_ms": round(result["median"] / 1000, 1),
        "p95_ms": round(result["p95"] / 1000, 1),
        "most_ms": round(result["most"] / 1000, 1),
        "per_s": round(1e6 * result["requests"] / result["microseconds"], 1),
        "kb": round(result["bytes"] / count / 1000, 1),
        "cpu_ms": round(1000 * (server.cpu() - before) / count, 2),
        "requests": result["requests"],
        "failed": result["refused"] + result["broken"],
    }


def lines(made: Made, seconds: int, pages: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield one line per kind of page."""
    with Index.open_readonly(made.index) as index:
        count = sum(row.files for row in index.datasets.select())
    here = {"n": count, "commit": commit(), "machine": machine()}

    def line(what: str, page: str, figures: dict[str, Any]) -> dict[str, Any]:
        load = round(os.getloadavg()[0], 1)
        return {"bench": "web", "what": what, "page": page, **figures, **here, "load": load}

    found = kinds(made)
    expect(found.keys() >= set(pages), f"the kinds of pages are {', '.join(found)}")
    with TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        with catalogue(made) as server:
            for page in pages or found:
                yield line("neuromirror", page, wrk(server, found[page], seconds, folder))


@click.command("web")
@json_option
@click.option("--datasets", default=1000, show_default=True, type=click.IntRange(3))
@click.option("--versions", default=10, show_default=True, type=click.IntRange(2), help="Of each.")
@click.option("--files", default=2_000_000, show_default=True, type=click.IntRange(40))
@click.option("--history", default=300, show_default=True, help="Versions of one of them.")
@click.option("--folder", default=10_000, show_default=True, help="Files in a large folder.")
@click.option("--seconds", default=5, show_default=True, type=click.IntRange(1), help="A page.")
@click.option("--page", "pages", multiple=True, help="Only this kind of page.")
@click.option(
    "--cache",
    default=Path("~/.cache/neuromirror-bench"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where the store is kept for the next run.",
)
def web_bench(
    datasets: int,
    versions: int,
    files: int,
    history: int,
    folder: int,
    seconds: int,
    pages: tuple[str, ...],
    cache: Path,
    *,
    as_json: bool,
) -> None:
    """Request pages of the catalogue, by kind, with eight concurrent clients. Requires wrk."""
    if shutil.which("wrk") is None:
        install_wrk()
    made = ready(cache.expanduser(), Sizes(datasets, versions, files, history, folder))
    report(lines(made, seconds, pages), as_json=as_json)


def install_wrk() -> None:
    """Install Debian's package if that is possible."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        sys.exit("bench: web needs wrk, which is not installed: apt-get install wrk")
    click.echo("installing wrk …", err=True)
    done = subprocess.run(
        [apt, "install", "--yes", "--quiet", "wrk"],
        stdout=sys.stderr,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        check=False,
    )
    expect(done.returncode == 0, "wrk could not be installed: apt-get install wrk says why")


if __name__ == "__main__":
    web_bench()
