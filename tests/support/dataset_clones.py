"""Clones of mirrored datasets with content, and helpers to change and verify them."""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.request import urlopen

from neuromirror.lab.verify import verify
from neuromirror.model import path_to_text
from neuromirror.transfer.outcomes import Finding
from neuromirror.transfer.verified_repository import VerifiedRepository
from support.mirror_harness import MirrorHarness, run_git


def clone_dataset(
    mirror_harness: MirrorHarness, dataset: str, target: Path, label: str = ""
) -> Path:
    """Clone a dataset from a store with plain git, at a version or its newest state."""
    target.parent.mkdir(parents=True, exist_ok=True)
    run_git(target.parent, "clone", "-q", str(mirror_harness.repository(dataset)), str(target))
    if label:
        run_git(target, "checkout", "-q", label)
    return target


def fetch_content(folder: Path) -> Path:
    """Download all content to git-annex's object directory, from the first URL of each file."""
    with VerifiedRepository.at(folder) as opened:
        for entry in opened.entries(opened.describe(opened.head()).tree):
            link = folder / path_to_text(entry.path)
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


def copy_folder(folder: Path, target: Path) -> Path:
    """Return a copy to be changed."""
    shutil.copytree(folder, target, symlinks=True)
    return target


def overwrite(path: Path, content: bytes) -> None:
    """Replace a file's content, through its link."""
    there = path.resolve()
    there.chmod(0o644)
    there.write_bytes(content)


def verify_all(folder: Path, **options: object) -> list[Finding]:
    """Return all findings for a dataset."""
    return list(verify(folder, **options))  # type: ignore[arg-type]


def failures(findings: Iterable[Finding]) -> list[tuple[str, str, str]]:
    """Return kind, path and status of the failed findings."""
    return [(finding.kind, finding.path, finding.status) for finding in findings if finding.failed]


def evidence_counts(findings: Iterable[Finding]) -> dict[tuple[str | None, str | None], int]:
    """Return the number of files by evidence, and whether they were hashed."""
    return Counter(
        (finding.evidence and finding.evidence.value, finding.checked)
        for finding in findings
        if finding.kind == "file" and finding.status == "ok"
    )


def run_annex(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "annex", *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr
