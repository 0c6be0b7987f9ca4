"""Servers for the benchmarks, each in its own process, and functions to time a crawl."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.memory import Memory
from neuromirror.crawl import Mirror, load_mirrors
from neuromirror.net import S3Bucket, Session
from neuromirror_demo.catalogue_process import first_line

DANDISET = "000009"
REPEATS = 3
_WITHOUT_PROXY = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@dataclass(frozen=True, slots=True)
class Served:
    """A served bucket; ``change`` replaces the bytes of one object."""

    endpoint: str
    name: str
    change: Callable[[bytes], None]

    def bucket(self) -> S3Bucket:
        """The bucket, for our own lister."""
        session = Session(allow_private=True)
        return S3Bucket(session, self.name, endpoint=self.endpoint)

    def mirror(self, folder: Path) -> Mirror:
        """A mirror of the bucket, in which the bucket is one dataset."""
        folder.mkdir(exist_ok=True)
        (folder / "bench.toml").write_text(
            f'source = "s3"\n[options]\nbucket = "{self.name}"\nendpoint = "{self.endpoint}"\n'
            "depth = 0\n"
        )
        return load_mirrors(folder)["bench"]

    def key(self, number: int) -> bytes:
        """Return the key with this number, as listed."""
        rows = self.bucket().objects(b"").rows()
        return sorted(row.key for row in rows)[number]

    def count(self) -> int:
        """List everything with our own lister; return the number of objects."""
        return sum(1 for _ in self.bucket().objects(b"").rows())

    def client(self) -> Any:
        """Return a boto3 client that signs nothing."""
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            config=Config(signature_version=UNSIGNED, proxies={}),
        )


@contextmanager
def listing_server(count: int, zarrs: int = 0) -> Iterator[Served]:
    """Serve a bucket of ``count`` objects with prepared pages.

    The pages are those that our lister requests; those of another lister are prepared by its first
    pass. With ``zarrs`` the objects form that many Zarrs.
    """
    with _server("listing", str(count), str(zarrs)) as served:
        expect(served.count() == count, "the listing server does not list what it should")
        yield served


@contextmanager
def moto_server(contents: Mapping[bytes, bytes]) -> Iterator[Served]:
    """Serve a bucket of these objects with moto's server, which git-annex supports too."""
    held = json.dumps({key.hex(): content.decode() for key, content in contents.items()})
    with _server("moto", first=f"{held}\n") as served:
        yield served


@contextmanager
def _server(*arguments: str, first: str = "") -> Iterator[Served]:
    os.environ |= _WITHOUT_PROXY
    with subprocess.Popen(
        [sys.executable, "-B", "-m", "benchmarks.s3_servers", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a separate session, which is not counted: see benchmarks.memory
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(line: str) -> Any:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(line)
            process.stdin.flush()
            reply = process.stdout.readline()
            expect(bool(reply), f"the server {arguments[0]} ended; see above")
            return json.loads(reply)

        try:
            where = ask(first)
            yield Served(where["endpoint"], where["bucket"], lambda key: ask(f"{key.hex()}\n"))
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass(frozen=True, slots=True)
class DemoServer:
    """The demo archive in its own process."""

    addresses: Mapping[str, Any]

    @property
    def mirror(self) -> Mirror:
        """Its mirror."""
        return load_mirrors(Path(self.addresses["mirrors"]))["demo"]

    def do(self, verb: str, **arguments: Any) -> Any:
        """Call an operation; return its result."""
        import requests

        url = f"{self.addresses['control']}/{verb}"
        reply = requests.post(url, json=arguments, timeout=600)
        reply.raise_for_status()
        return reply.json()["result"]

    def requests(self) -> dict[str, list[str]]:
        """The requests so far, by server."""
        import requests

        found: dict[str, list[str]] = requests.get(
            f"{self.addresses['control']}/requests", timeout=60
        ).json()
        return found


@contextmanager
def demo_server(folder: Path) -> Iterator[DemoServer]:
    """Run the demo archive with its files in a folder."""
    arguments = "serve", "--dir", str(folder / "demo")
    with server_process("neuromirror_demo", *arguments) as line:
        yield DemoServer(json.loads(line))


@contextmanager
def dandi_archive(folder: Path, count: int) -> Iterator[Mirror]:
    """Run the demo archive in its own process, with one dandiset of ``count`` files."""
    with demo_server(folder) as server:
        server.do("make_many", dandiset=DANDISET, n_files=count)
        yield server.mirror


class BigServer:
    """The synthetic archive in its own process, and its counters."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.about = about

    def requests(self) -> dict[str, Any]:
        """Return counts by kind of request, CPU seconds and peak memory of the server."""
        return self._get("requests")

    def clear(self) -> None:
        """Reset the counters."""
        self._get("clear_requests")

    def _get(self, what: str) -> dict[str, Any]:
        from urllib.request import ProxyHandler, build_opener

        opener = build_opener(ProxyHandler({}))
        with opener.open(f"{self.about['control']}/{what}", timeout=600) as reply:
            found: dict[str, Any] = json.load(reply)
        return found


def big_archive(mirrors: Path, *options: str) -> AbstractContextManager[BigServer]:
    """Run the synthetic DANDI archive with its mirror file ``big.toml``; see its ``--help``."""
    return run_server("benchmarks.big_archive", "--warm", "--dir", str(mirrors), *options)


@contextmanager
def run_server(module: str, *arguments: str) -> Iterator[BigServer]:
    """Run a synthetic DANDI archive that prints its addresses as a line of JSON."""
    with server_process(module, *arguments) as line:
        yield BigServer(json.loads(line))


@contextmanager
def server_process(module: str, *arguments: str) -> Iterator[str]:
    """Run a module that is a server in its own process; yield the first line of its output."""
    os.environ |= _WITHOUT_PROXY
    with subprocess.Popen(
        [sys.executable, "-B", "-m", module, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a separate session, which is not counted: see benchmarks.memory
    ) as process:
        try:
            line = first_line(process)
            expect(bool(line), f"the server {module} did not start; see above")
            yield line
        finally:
            process.terminate()


def in_separate_process(run: Callable[..., float], *given: Any) -> tuple[float, dict[str, Any]]:
    """Return the seconds of a function in its own process, and the peak memory of that process."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_and_send, args=(run, given, theirs))
    process.start()
    theirs.close()
    try:
        seconds, peak = ours.recv()
    except EOFError:
        sys.exit(1)
    finally:
        process.join()
    return seconds, {"peak_mb": peak}


def _run_and_send(run: Callable[..., float], given: tuple[Any, ...], pipe: Any) -> None:
    with Memory() as memory:
        seconds = run(*given)
    pipe.send((seconds, memory.peak_mb))


def visits(mirror: Mirror, store: Path, name: str, deep: bool) -> float:
    """Return the median of visits that find nothing new and write nothing."""
    before = contents_of(store)
    revisit = partial(sync_once, mirror, store, name, deep=deep)
    times = [timed(revisit, status="notneeded") for _ in range(REPEATS)]
    expect_untouched(store, before)
    return statistics.median(times)


def sync_once(mirror: Mirror, store: Path, name: str = "", *, deep: bool = False) -> Any:
    """Sync a dataset once, by default the only one of the mirror; exit if it fails."""
    from neuromirror.crawl import Sync, parse_sync_requests
    from neuromirror.store import Store

    opened = Store.open(store, create=True)
    if not name:
        (name,) = [hint.dataset.name for hint in mirror.open().datasets()]
    requests = parse_sync_requests([name], {mirror.name: mirror})
    results = list(Sync(opened, opened.index_path, deep=deep, jobs=1).results(requests))
    fine = len(results) == 1 and results[0].status in ("ok", "notneeded")
    expect(fine, f"the sync failed: {results}")
    return results[0]


def contents_of(store: Path) -> dict[str, tuple[int, str]]:
    """Return modification time (ns) and sha256 of all files of a store except locks, by path."""
    found = {}
    for path in sorted(store.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.suffix != ".lock":
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[str(path.relative_to(store))] = (path.stat().st_mtime_ns, digest)
    return found


def expect_untouched(store: Path, before: dict[str, tuple[int, str]]) -> None:
    """Exit if a file of the store has changed."""
    after = contents_of(store)
    written = sorted(name for name in before | after if before.get(name) != after.get(name))
    expect(not written, f"the visit wrote into the store: {', '.join(written[:5])}")


def processor_seconds() -> float:
    """Return the user and system seconds of this process and its finished children."""
    return sum(os.times()[:4])


def timed(run: Callable[[], Any], *, status: str | None = None) -> float:
    """Return the seconds of a call; exit if its result does not have the expected status."""
    begin = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - begin
    if status is not None:
        expect(result.status == status, f"the sync should have been {status}: {result}")
    return seconds


def expect(holds: bool, otherwise: str) -> None:
    """Exit with a message unless a condition holds."""
    if not holds:
        sys.exit(f"bench: {otherwise}")
