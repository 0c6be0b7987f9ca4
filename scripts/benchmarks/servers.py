"""Servers of the benchmarks, each in its own process, and the sync of what they serve."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.common import expect, median, timed
from neuromirror.crawl import Mirror, load_mirrors
from neuromirror.net import S3Bucket, Session

DANDISET = "000009"


@contextmanager
def in_server_process(
    serve: Callable[..., AbstractContextManager[Any]], *given: Any
) -> Iterator[Callable[..., Any]]:
    """Run a server in its own process; the yielded function calls one of its methods.

    Without arguments, it returns the server's attribute of that name.
    """
    # servers are on loopback; their memory is not counted, as they have a session of their own
    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(serve, given, theirs), daemon=True)
    process.start()
    theirs.close()

    def ask(name: str, *arguments: Any, **named: Any) -> Any:
        ours.send((name, arguments, named))
        return ours.recv()

    try:
        yield ask
    finally:
        ours.close()
        process.join(10)
        process.kill()


def _serve(
    serve: Callable[..., AbstractContextManager[Any]], given: tuple[Any, ...], pipe: Any
) -> None:
    os.setsid()
    with serve(*given) as server:
        while True:
            try:
                name, arguments, named = pipe.recv()
            except EOFError:
                return
            found = getattr(server, name)
            pipe.send(found(*arguments, **named) if callable(found) else found)


class Served:
    """A served bucket."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self.endpoint: str = ask("endpoint")
        self.name: str = ask("name")
        self._ask = ask

    def mirror(self, folder: Path) -> Mirror:
        """Return a mirror of the bucket, in which the bucket is one dataset."""
        options = f'bucket = "{self.name}"\nendpoint = "{self.endpoint}"\ndepth = 0\n'
        return mirror_of(folder, f'source = "s3"\n[options]\n{options}')

    def count(self) -> int:
        """List everything with our own lister; return the number of objects."""
        bucket = S3Bucket(Session(allow_private=True), self.name, endpoint=self.endpoint)
        return sum(1 for _ in bucket.objects(b"").rows())

    def change(self, number: int) -> None:
        """Replace the bytes of the object with this number."""
        self._ask("change_number", number)


def mirror_of(folder: Path, text: str) -> Mirror:
    """Return the mirror ``bench`` with this mirror file."""
    folder.mkdir(exist_ok=True)
    (folder / "bench.toml").write_text(text)
    return load_mirrors(folder)["bench"]


@contextmanager
def listing_server(count: int, zarrs: int = 0) -> Iterator[Served]:
    """Serve a bucket of ``count`` objects with prepared pages.

    The pages are those that our lister requests; those of another lister are prepared by its first
    pass. With ``zarrs`` the objects form that many Zarrs.
    """
    from benchmarks.listing_server import prepared_bucket

    with in_server_process(prepared_bucket, count, zarrs) as ask:
        served = Served(ask)
        expect(served.count() == count, "the listing server does not list what it should")
        yield served


@contextmanager
def moto_server(contents: Mapping[str, bytes]) -> Iterator[Served]:
    """Serve a bucket of these objects with moto's server, which git-annex supports too."""
    with in_server_process(_Moto, contents) as ask:
        yield Served(ask)


class _Moto:
    name = "bench"

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self._contents = contents

    def __enter__(self) -> _Moto:
        import logging

        import boto3
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        keys = {"aws_access_key_id": "bench", "aws_secret_access_key": "bench"}
        client = boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **keys)
        client.create_bucket(Bucket=self.name, ACL="public-read")
        for key, content in self._contents.items():
            client.put_object(Bucket=self.name, Key=key, Body=content)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()


@contextmanager
def demo_server(folder: Path) -> Iterator[Callable[..., Any]]:
    """Run an empty demo archive; the yielded function calls its methods."""
    from neuromirror_demo import DemoArchive

    with in_server_process(partial(DemoArchive, empty=True), folder / "demo") as ask:
        yield ask


@contextmanager
def dandi_archive(folder: Path, count: int) -> Iterator[Mirror]:
    """Run a demo archive with one dandiset of ``count`` files."""
    with demo_server(folder) as ask:
        ask("make_many", DANDISET, n_files=count)
        yield load_mirrors(ask("mirrors"))["demo"]


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


def revisit(mirror: Mirror, store: Path, name: str, deep: bool) -> float:
    """Return the median of visits that find nothing new and write nothing."""
    before = _contents_of(store)
    run = partial(sync_once, mirror, store, name, deep=deep)
    seconds = median(lambda: timed(run, status="notneeded"))
    after = _contents_of(store)
    written = sorted(name for name in before | after if before.get(name) != after.get(name))
    expect(not written, f"the visit wrote into the store: {', '.join(written[:5])}")
    return seconds


def _contents_of(store: Path) -> dict[str, tuple[int, str]]:
    """Return modification time (ns) and sha256 of all files of a store except locks, by path."""
    found = {}
    for path in sorted(store.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.suffix != ".lock":
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[str(path.relative_to(store))] = (path.stat().st_mtime_ns, digest)
    return found


def count_files(store: Path) -> int:
    """Return the number of files in all datasets of a store, those of Zarrs included."""
    from neuromirror.index import Index
    from neuromirror.store import Store

    with Index.open_readonly(Store.open(store).index_path) as index:
        return sum(mirror.files for mirror in index.crawl.mirrors())
