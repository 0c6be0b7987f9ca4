"""Targets: locks, manifests, and the globs in them."""

import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from fuzz_core import check_agreement, fixed_seeds, target
from fuzz_git import scratch

from neuromirror.lab.globs import Globs
from neuromirror.lab.lock_manifests import (
    BLOCK_DIGESTS_ENDING,
    LockBlockDigests,
    LockManifestDamagedError,
)
from neuromirror.lab.lockfile import LockUnusableError, dump_lock, parse_lock
from neuromirror.model import LEAF_SIZE, ConfigurationError, encode_block_digests
from support.block_digests import digests_of

_ID = "52c46016-01f6-5ad2-8d65-ac9dcb7f1eed"
_COMMIT = "4015b57a143aec5156fd1444a017a32137a3fd0f"
_LOCK = f"""# a comment
lock-version = 2

# of this dataset
[[dataset]]
name = "dandi:000027"
requested = "latest"
resolved = {{version = "0.210831.2033", doi = "10.48324/dandi.000027/0.210831.2033"}}
dataset-id = "{_ID}"
source = "https://api.dandiarchive.org/api/dandisets/000027/"
commit = "{_COMMIT}"  # behind
annex-commit = "725616c21e6a0b31209ec71133b0269882a81121"
tree = "80655da8d80aaaf92ce5357e7828dc09adb00993"
swhid = "swh:1:rev:{_COMMIT}"
state = "sha256:{"4b" * 32}"
metadata = "sha256:{"45" * 32}"
manifest = "datasets.lock.d/dandi--000027/{_COMMIT}.jsonl.zst"
bundle = "datasets.lock.d/dandi--000027/{_COMMIT}.bundle"
sha256 = ["{"5a" * 32}  {_COMMIT}.jsonl.zst", "{"b6" * 32}  {_COMMIT}.bundle"]
clone = ["ria+https://mirror.example.org/#{_ID}"]
files = 1
bytes = 18792
paths = ["sub-RAT123", "**/*.nwb"]
evidence = {{sha256 = {{checked = 0, claimed = 1}}}}
durability = "published"
"""


@target("lock", LockUnusableError, seeds=fixed_seeds(_LOCK), kind="text")
def lock(data: bytes) -> None:
    """Locks: what is read survives being written, with comments and without."""
    path = Path("datasets.lock")
    found = parse_lock(path, data)
    check_agreement(parse_lock(path, dump_lock(found)).datasets == found.datasets, "round trip")
    check_agreement(
        parse_lock(path, dump_lock(found, data)).datasets == found.datasets, "with comments"
    )
    for pin in found.datasets:
        pin.matches(b"sub-01/ses-02/sub-01_ses-02.nwb")
        pin.reaches(b"sub-01/ses-02")


def _lock_block_digests() -> Sequence[bytes]:
    contents = [bytes(range(256)) * 200, b"a" * 5]
    keys = [f"MD5E-s{len(content)}--{'0' * 32}" for content in contents]
    pairs = sorted(zip(keys, contents, strict=True))
    encoded = [encode_block_digests(key, digests_of(one, LEAF_SIZE)) for key, one in pairs]
    return [b"".join(encoded), encoded[0], b""]


@target("lock-block-digests", LockManifestDamagedError, seeds=_lock_block_digests)
def lock_block_digests(data: bytes) -> None:
    """Block digests beside a lock file."""
    path = scratch() / f"{hashlib.sha256(data).hexdigest()}{BLOCK_DIGESTS_ENDING}"
    path.write_bytes(data)
    try:
        with closing(LockBlockDigests(path)) as pinned:
            second = b"".join(
                encode_block_digests(key, digests)
                for key in pinned
                if (digests := pinned.read(key)) is not None
            )
        check_agreement(second == data, "round trip")
    finally:
        path.unlink()


@target(
    "globs",
    ConfigurationError,
    seeds=fixed_seeds(
        "sub-*/anat\nsub-01/anat/x",
        "**/*.nwb\na/b/c.nwb",
        "[!a-c]?/*\nd1/x",
        "*a*a*a*b\naaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ),
    kind="text",
)
def globs(data: bytes) -> None:
    """Globs of locks: what matches is reached from each folder above it."""
    glob, _, path = data.decode("utf-8", "replace").partition("\n")
    path = path.replace("\n", "")[:500]
    made = Globs([glob])
    matched = made.matches(path)
    if matched:
        names = path.split("/")
        for end in range(1, len(names)):
            check_agreement(made.reaches("/".join(names[:end])), "reaches", glob, path)
