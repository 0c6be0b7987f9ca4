"""Commit objects of mint spec 1: a fixed identity, upstream's time, and trailers."""

from __future__ import annotations

from neuromirror.model import SnapshotHeader

MINT_SPEC = 1


def commit_bytes(
    mirror: str, tree: bytes, parent: str | None, timestamp: int, message: str
) -> bytes:
    """Return the content of a commit object.

    Parameters
    ----------
    mirror
        The mirror's name, in author and committer.
    tree
        The tree's 20-byte id.
    parent
        The parent's id in hex; None for a root commit.
    timestamp
        Author and committer date, in whole seconds since the epoch; the time zone is +0000.
    message
        Subject, body and trailers.

    Returns
    -------
    bytes
        The content, without the header of a git object.
    """
    identity = f"neuromirror <{mirror}@neuromirror.invalid> {timestamp} +0000"
    lines = [f"tree {tree.hex()}"]
    if parent is not None:
        lines.append(f"parent {parent}")
    lines += [f"author {identity}", f"committer {identity}", "", message]
    return "\n".join(lines).encode()


def version_message(header: SnapshotHeader, label: str, state: str, files: int, size: int) -> str:
    """Return the message of a state's commit: subject and trailers.

    Parameters
    ----------
    header
        The version's header.
    label, state
        The label and the state digest.
    files, size
        Number and size in bytes of the files.
    """
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
    """Return the message of the commit on the git-annex branch that belongs to a version."""
    return f"{header.version.dataset.name} {label}\n\nMirror-Spec: {MINT_SPEC}\n"
