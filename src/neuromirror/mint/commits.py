"""Commit objects of mint spec 1: fixed identity, upstream's time, trailers."""

from __future__ import annotations

from neuromirror.model import SnapshotHeader

MINT_SPEC = 1


def commit_bytes(
    mirror: str, tree: bytes, parent: str | None, timestamp: int, message: str
) -> bytes:
    """A commit object; ``tree`` is a 20-byte id, ``timestamp`` whole seconds, zone +0000."""
    identity = f"neuromirror <{mirror}@neuromirror.invalid> {timestamp} +0000"
    lines = [f"tree {tree.hex()}"]
    if parent is not None:
        lines.append(f"parent {parent}")
    lines += [f"author {identity}", f"committer {identity}", "", message]
    return "\n".join(lines).encode()


def version_message(header: SnapshotHeader, label: str, state: str, files: int, size: int) -> str:
    """Subject and trailers of a state's commit."""
    version = header.version
    return (
        f"{version.dataset.name} {label}\n\n"
        f"Mirror-Spec: {MINT_SPEC}\n"
        f"Source: {version.dataset.source_uri}\n"
        f"Version: {version.upstream}\n"
        f"State: {state}\n"
        f"Files: {files}\n"
        f"Bytes: {size}\n"
    )


def annex_message(header: SnapshotHeader, label: str) -> str:
    """The message of the git-annex branch's commit for a state."""
    return f"{header.version.dataset.name} {label}\n\nMirror-Spec: {MINT_SPEC}\n"
