"""The canonical manifests of a store: ``manifests/<ab>/<rest>.jsonl.zst`` by state digest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import zstandard

from neuromirror.model import StateDigest
from neuromirror.store.errors import StoreDamaged


def manifest_file(root: Path, state: str) -> Path:
    """Where the canonical manifest of a state (``sha256:<hex>``) is in the store at ``root``."""
    digest = state.removeprefix("sha256:")
    return root / "manifests" / digest[:2] / f"{digest[2:]}.jsonl.zst"


def manifest_lines(path: Path) -> Iterator[bytes]:
    """The lines of a manifest, without newline.

    Raises StoreDamaged, at the latest at its end, where it is missing or of another state than its
    name says.
    """
    rest = b""
    digest = StateDigest()
    try:
        with path.open("rb") as file:
            for block in zstandard.ZstdDecompressor().read_to_iter(file, write_size=1 << 16):
                digest.add(block)
                lines = (rest + block).split(b"\n")
                rest = lines.pop()
                yield from lines
    except (FileNotFoundError, zstandard.ZstdError) as error:
        raise StoreDamaged(
            f"the manifest {path} cannot be read ({error}); restore it from a backup"
        ) from error
    if manifest_file(path.parents[2], digest.value()) != path:
        raise StoreDamaged(f"the manifest {path} is of another state; restore it from a backup")
