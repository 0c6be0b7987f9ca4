"""Torrents of BitTorrent v2 (BEP 52) for files with block digests, with their URLs as web seeds.

One torrent per file: a client composes the URLs of a torrent with several files from one address
and the paths (BEP 19), but the files of an archive have addresses of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from neuromirror.lab.lock_block_digests import LockBlockDigests
from neuromirror.lab.output_files import new_folder
from neuromirror.model import BlockDigests, path_to_text
from neuromirror.store.block_digests import BlockDigestsFolder
from neuromirror.transfer.findings import Finding
from neuromirror.transfer.outcomes import Outcome, Status
from neuromirror.transfer.verify_items import Item

TORRENT_ENDING: Final = ".torrent"
_SEED_SUFFIX: Final = "x-file="
"""An ignored parameter at the end of each web seed.

libtorrent appends a slash and the name of the file to the web seed of a v2 torrent, also with one
file. S3 ignores parameters whose names start with ``x-``, but not a name after the object's key or
version."""

_Bencodable = int | bytes | Sequence["_Bencodable"] | Mapping[bytes, "_Bencodable"]


def torrent_of(name: str, digests: BlockDigests, urls: Sequence[str], comment: str = "") -> bytes:
    """Return the torrent of one file.

    Parameters
    ----------
    name
        The name of the file.
    digests
        The block digests of its content, which is not empty.
    urls
        Its http and https URLs, best first.
    comment
        The comment of the torrent.

    Returns
    -------
    bytes
        The content of the torrent file; equal arguments give equal bytes.
    """
    file: dict[bytes, _Bencodable] = {b"length": digests.size, b"pieces root": digests.root}
    torrent: dict[bytes, _Bencodable] = {
        b"info": {
            b"file tree": {name.encode(): {b"": file}},
            b"meta version": 2,
            b"name": name.encode(),
            b"piece length": digests.piece_size,
        },
        b"piece layers": {digests.root: digests.layer} if digests.layer else {},
        b"url-list": [web_seed(url).encode() for url in urls],
    }
    if comment:
        torrent[b"comment"] = comment.encode()
    return bencode(torrent)


def export_torrents(
    files: Iterable[tuple[str, str, Item]],
    sources: Sequence[BlockDigestsFolder | LockBlockDigests],
    target: Path,
) -> Iterator[Outcome]:
    """Write a torrent per file below a new folder, at the path of the file.

    Parameters
    ----------
    files
        Dataset, label, and a file or a finding, as from
        :func:`neuromirror.lab.digest.files_of_version`.
    sources
        Where block digests are looked up, in this order.
    target
        The folder; it must be missing or empty.

    Yields
    ------
    Outcome
        An outcome per file; ``impossible`` without block digests, or without an http URL.

    Raises
    ------
    OutputUnsuitableError
        The folder exists, or cannot be created.
    """
    with new_folder(target) as folder:
        for dataset, label, item in files:
            if isinstance(item, Finding):
                if item.failed:
                    yield replace(item.for_version(dataset, label), action="export")
                continue
            path = path_to_text(item.path)
            found = (one.read(item.key) for one in sources)
            digests = next(filter(None, found), None)
            urls = item.web_urls or tuple(url for url in item.urls if url.startswith("http"))
            problem = _problem(digests, urls)
            if digests is not None and not problem:
                content = torrent_of(
                    path.rpartition("/")[2], digests, urls, f"{dataset}@{label} {path}"
                )
                status, problem = _write_torrent(folder / f"{path}{TORRENT_ENDING}", content)
            else:
                status = "impossible"
            yield Outcome(
                *("export", status, path, problem),
                dataset=dataset,
                version=label,
                key=item.key,
                size=None if digests is None else digests.size,
            )


def _write_torrent(path: Path, content: bytes) -> tuple[Status, str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return "error", "another pinned dataset has a file of this path; export it by its version"
    except OSError as error:
        return "error", f"its torrent cannot be written: {error.strerror}"
    return "ok", ""


def web_seed(url: str) -> str:
    """Return the web seed of a torrent for the URL of a file.

    Some clients append a slash and the name of the file to a web seed. The result therefore ends
    with an empty query parameter, which the server ignores: what a client appends becomes the
    parameter's value, and the path of the URL stays the same.

    Parameters
    ----------
    url
        The URL of a file.

    Returns
    -------
    str
        The URL with the parameter, and without its fragment.
    """
    plain = url.partition("#")[0]
    return f"{plain}{'&' if '?' in plain else '?'}{_SEED_SUFFIX}"


def bencode(value: _Bencodable) -> bytes:
    """Encode a value as in BEP 3; the keys of dictionaries are sorted.

    Parameters
    ----------
    value
        Integers, bytes, sequences and dictionaries with bytes as keys.

    Returns
    -------
    bytes
        The encoded value.
    """
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, Mapping):
        pairs = (bencode(key) + bencode(value[key]) for key in sorted(value))
        return b"d" + b"".join(pairs) + b"e"
    return b"l" + b"".join(map(bencode, value)) + b"e"


def _problem(digests: BlockDigests | None, urls: Sequence[str]) -> str:
    if digests is None:
        return "it has no block digests; run 'neuromirror digest', with --piece-size if it is small"
    if not digests.size:
        return "a torrent cannot have an empty file"
    return "" if urls else "it has no http or https URL"
