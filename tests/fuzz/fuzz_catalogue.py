"""Targets: what other catalogues and mirrors reply, and the lock files that they create."""

import io
import json
import shutil
import zipfile
from collections.abc import Sequence
from functools import cache
from urllib.parse import urlsplit

import zstandard
from fuzz_core import check_agreement, target
from fuzz_git import scratch
from fuzz_lab import _LOCK
from fuzz_net import _server

from neuromirror.lab.lockfile import load_lock
from neuromirror.lab.pin import _unpack, parse_catalogue_url
from neuromirror.model import NeuromirrorError, StateDigest
from neuromirror.store.records import manifest_file, manifest_lines
from neuromirror.stream.remote_trees import CatalogueTree, parse_catalogue_address

_COMMIT = "4015b57a143aec5156fd1444a017a32137a3fd0f"
_KEY = "SHA256E-s5--" + "0" * 64 + ".nwb"


def _http(body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


@cache
def _tree() -> CatalogueTree:
    server = _server()
    server.data = _http(json.dumps({"name": "dandi:000027@0.1", "commit": _COMMIT}).encode())
    return CatalogueTree(server.address.rstrip("/"), "dandi:000027@0.1")


_FILE = {
    **{"size": 5, "key": _KEY, "digest": "sha256:" + "0" * 64, "delivered": "proxy"},
    "locations": ["https://x.example.org/a?versionId=1"],
}
_FOLDER = {
    "entries": [
        {"name": "sub-01", "type": "folder", "size": None, "key": None},
        {"name": "a.nwb", "type": "file", "size": 5, "key": _KEY},
    ],
    "next": None,
}


@target(
    "catalogue-reply",
    NeuromirrorError,
    seeds=lambda: [json.dumps(one).encode() for one in (_FILE, _FOLDER)],
    kind="json",
    slow=True,
)
def catalogue_reply(data: bytes) -> None:
    """Replies of a catalogue whose URL is opened: files and folders."""
    tree, server = _tree(), _server()
    server.data = _http(data)
    tree._session._limiters.clear()
    tree._files.clear()
    found = tree.file("sub-01/a.nwb")
    if found is not None:
        check_agreement(all(urlsplit(url).scheme in ("http", "https") for url in found.urls), found)
    for number, entry in enumerate(tree.entries("sub-01") or ()):
        check_agreement("/" not in entry.name and entry.name not in ("", ".", ".."), entry)
        if number > 100:  # the server returns the same page forever
            break


@target(
    "catalogue-url",
    NeuromirrorError,
    ValueError,
    seeds=lambda: [
        b"https://x.example.org/at/dandi:000027@0.1/a/b.nwb",
        b"https://x.example.org/dataset/dandi:000027@draft?under=a",
        b"https://x.example.org/lock?add=dandi:000027@0.1&add=a:b",
    ],
    kind="text",
)
def catalogue_url(data: bytes) -> None:
    """URLs of pages of catalogues."""
    text = data.decode("utf-8", "surrogateescape")
    parse_catalogue_address(text)
    pins = parse_catalogue_url(text)
    if pins is not None:
        check_agreement(urlsplit(pins.url).netloc == urlsplit(text).netloc, pins.url)


def _archives() -> Sequence[bytes]:
    made = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            archive.writestr("datasets.lock", _LOCK)
            archive.writestr(f"datasets.lock.d/dandi--000027/{_COMMIT}.jsonl.zst", b"x" * 100)
        made.append(file.getvalue())
    return made


@target("catalogue-lock", zipfile.BadZipFile, NeuromirrorError, seeds=_archives)
def catalogue_lock(data: bytes) -> None:
    """Lock files with their manifests as zip files, which a catalogue creates."""
    folder = scratch() / "pins" / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    archive = folder.parent / "lock.zip"
    archive.write_bytes(data)
    try:
        _unpack(archive, folder)
        load_lock(folder / "datasets.lock")
    finally:
        names = {one.name for one in folder.parent.iterdir()}
        check_agreement(names == {"folder", "lock.zip"}, names)


_ROWS = b"".join(
    b'{"digest":"sha256:%s","path":"%c","size":5}\n' % (b"0" * 64, name) for name in b"abc"
)


def _manifests() -> Sequence[bytes]:
    made: bytes = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(_ROWS)
    return [made]


@target("mirror-manifest", NeuromirrorError, seeds=_manifests, kind="zstd")
def mirror_manifest(data: bytes) -> None:
    """Canonical manifests that somebody else made, whose name has their digest."""
    digest = StateDigest()
    digest.add(_ROWS)
    path = manifest_file(scratch() / "mirror", digest.value())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    found = b"".join(line + b"\n" for line in manifest_lines(path))
    check_agreement(found == _ROWS, "another manifest with this digest", found)
