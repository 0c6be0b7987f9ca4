"""Clones of mirrored datasets whose content is here, and what tests do to them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.request import urlopen

from crawl_place import Place, git

from neuromirror.lab.verify import Clone, Finding, verify
from neuromirror.model import text


def clone(place: Place, dataset: str, target: Path, label: str = "") -> Path:
    """A plain git clone of a dataset in a store, at a version or at its newest state."""
    target.parent.mkdir(parents=True, exist_ok=True)
    git(target.parent, "clone", "-q", str(place.repository(dataset)), str(target))
    if label:
        git(target, "checkout", "-q", label)
    return target


def fill(folder: Path) -> Path:
    """Puts all content where git-annex would, from the first place of each file."""
    with Clone.at(folder) as opened:
        for entry in opened.entries(opened.described(opened.head()).tree):
            link = folder / text(entry.path)
            if not link.is_symlink():
                continue
            target = link.parent / os.readlink(link)
            if target.exists():
                continue
            target.parent.mkdir(parents=True)
            with urlopen(opened.urls(target.name)[0]) as reply:
                target.write_bytes(reply.read())
            target.chmod(0o444)
    return folder


def copied(folder: Path, target: Path) -> Path:
    """A copy to be changed."""
    shutil.copytree(folder, target, symlinks=True)
    return target


def put(path: Path, content: bytes) -> None:
    """Gives a file's content other bytes, wherever a link leads to."""
    there = path.resolve()
    there.chmod(0o644)
    there.write_bytes(content)


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    put(path, bytes(content))


def looked_at(folder: Path, **options: object) -> list[Finding]:
    """All that is found of a dataset."""
    return list(verify(folder, **options))  # type: ignore[arg-type]


def failed(findings: Iterable[Finding]) -> list[tuple[str, str, str]]:
    """What failed: what it is, where, and with which status."""
    return [(one.what, one.path, one.status) for one in findings if one.failed]


def proved(findings: Iterable[Finding]) -> dict[tuple[str | None, str | None], int]:
    """How many files are proved by what, and whether they were hashed."""
    return Counter(
        (one.evidence and one.evidence.value, one.checked)
        for one in findings
        if one.what == "file" and one.status == "ok"
    )


def annex(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "annex", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr
