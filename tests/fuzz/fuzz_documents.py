"""Targets: manifests, and what commits say of themselves."""

import hashlib
import io
from collections.abc import Sequence
from functools import cache

import msgspec
import zstandard
from fuzz_core import check_agreement, target
from fuzz_git import scratch

from neuromirror.lab.lock_manifests import (
    ListedFile,
    ListedSubdataset,
    LockManifestHead,
    LockManifestReader,
    PlainFile,
    canonical_line,
)
from neuromirror.mint import ZstdFrameError, read_lines
from neuromirror.model import NeuromirrorError

_ID = "52c46016-01f6-5ad2-8d65-ac9dcb7f1eed"
_COMMIT = "4015b57a143aec5156fd1444a017a32137a3fd0f"
_STATE = "sha256:" + "4b" * 32


@cache
def _lines() -> bytes:
    """Lines of a manifest: a plain file, one with an odd name, an annexed file and a subdataset."""
    digest = "sha256:" + "0" * 64
    key = f"SHA256E-s5--{'0' * 64}.nwb"
    file = ListedFile("a.nwb", key, digest, 5, ("https://x.example.org/a",), True)
    part = ListedSubdataset("b.zarr", _ID, "dandi:zarr/1", _COMMIT, _STATE, 3, 4)
    content = canonical_line(file) + canonical_line(part)
    head = LockManifestHead(
        manifest=1,
        dataset="dandi:000027",
        dataset_id=_ID,
        source="https://x.example.org/",
        version="0.1",
        commit=_COMMIT,
        tree="8" * 40,
        state=f"sha256:{hashlib.sha256(content).hexdigest()}",
        form="files",
        commit_object="tree 0\n",
    )
    subdataset_line = {
        **{"path": part.path, "dataset": part.dataset_id, "name": part.name},
        **{"commit": part.commit, "state": part.state, "files": 3, "bytes": 4},
    }
    plain = [{"path": "dandiset.yaml", "content": "{}\n"}, {"path": "odd", "base64": "/w=="}]
    found = [head, *plain, file, subdataset_line]
    return b"".join(msgspec.json.encode(one) + b"\n" for one in found)


def _packed(data: bytes) -> bytes:
    made: bytes = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(data)
    return made


def _frames() -> Sequence[bytes]:
    return [_packed(_lines())]


@target("manifest", NeuromirrorError, seeds=_frames, kind="zstd")
def manifest(data: bytes) -> None:
    """Manifests, read to their ends."""
    path = scratch() / "x.jsonl.zst"
    path.write_bytes(data)
    reader = LockManifestReader(path, 100)
    for line in reader:
        check_agreement(isinstance(line, PlainFile | ListedFile | ListedSubdataset), line)
        if isinstance(line, ListedFile):
            check_agreement(line.evidence is not None, line)
        check_agreement(not line.path.startswith("/") and "\0" not in line.path, line.path)
        check_agreement(not {"..", ".git"} & set(line.path.split("/")), line.path)


@target("frame", ZstdFrameError, seeds=_frames)
def frame(data: bytes) -> None:
    """Lines of zstd frames, compared with zstandard's own reader."""
    found = list(read_lines(io.BytesIO(data)))
    content = zstandard.ZstdDecompressor().stream_reader(data).read()
    check_agreement([*found, b""] == content.split(b"\n"), "lines", found)
