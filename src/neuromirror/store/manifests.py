"""Read canonical manifests: ``manifests/<ab>/<rest>.jsonl.zst``, named by state digest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from neuromirror.mint import ZstdFrameError, decompress_frame
from neuromirror.mint.seekable_lines import split_lines
from neuromirror.model import StateDigest
from neuromirror.store.errors import StoreDamagedError


def manifest_file(root: Path, state: str) -> Path:
    """Return the path of the manifest of a state (``sha256:<hex>``) in the store at ``root``."""
    digest = state.removeprefix("sha256:")
    return root / "manifests" / digest[:2] / f"{digest[2:]}.jsonl.zst"


def manifest_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a manifest, without newlines.

    Raises
    ------
    StoreDamagedError
        The manifest is missing, or its digest differs from its name. The digest is checked only
        after the last line.
    """
    digest = StateDigest()

    def hashed(file: IO[bytes]) -> Iterator[bytes]:
        for piece in decompress_frame(file):
            digest.add(piece)
            yield piece

    try:
        with path.open("rb") as file:
            yield from split_lines(hashed(file))
    except (FileNotFoundError, ZstdFrameError) as error:
        raise StoreDamagedError(
            f"the manifest {path} cannot be read ({error}); restore it from a backup"
        ) from error
    if manifest_file(path.parents[2], digest.value()) != path:
        raise StoreDamagedError(
            f"the digest of the manifest {path} differs from its name; restore it from a backup"
        )
