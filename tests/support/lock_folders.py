"""Folders with a lock file of mirrored datasets, and the results of restoring them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard
from click.testing import CliRunner, Result

from neuromirror.cli import main
from neuromirror.lab.lockfile import Lock, Pin, load_lock
from neuromirror.lab.pin import PinRequest, pin
from neuromirror.lab.restore import restore
from neuromirror.store import Store
from neuromirror.transfer.outcomes import Outcome
from support.mirror_harness import MirrorHarness

PUBLISHED = "demo:000002"
DRAFT = "demo:000004"
ZARR = "demo:000005"


@dataclass
class LockFolder:
    """A folder with a lock file of datasets in a store."""

    mirror_harness: MirrorHarness
    folder: Path
    name: str = "datasets.lock"

    @property
    def file(self) -> Path:
        return self.folder / self.name

    @property
    def lock(self) -> Lock:
        return load_lock(self.file)

    def pin(self, *names: str, remove: Sequence[str] = (), **options: Any) -> list[Outcome]:
        """Pin versions, all with the same options of ``PinRequest``."""
        requests = []
        for name in names:
            dataset, _, label = name.partition("@")
            requests.append(PinRequest(dataset, label or "latest", **options))
        with self.mirror_harness.index() as index:
            return list(pin(self.file, requests, self.mirror_harness.store, index, remove=remove))

    def pin_of(self, name: str) -> Pin:
        found = self.lock.pin(name)
        assert found is not None
        return found

    def files(self) -> dict[str, bytes]:
        """Return the content of all files by path."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }

    def copy(self, folder: Path) -> LockFolder:
        """Copy the folder and return the copy."""
        shutil.copytree(self.folder, folder)
        return LockFolder(self.mirror_harness, folder, self.name)

    def edit(self, old: str, new: str) -> None:
        """Replace the first occurrence of a text in the lock file, which must have it."""
        text = self.file.read_text("utf-8")
        assert old in text
        self.file.write_text(text.replace(old, new, 1), "utf-8")

    def command(self, *arguments: str, store: Path | None = None) -> Result:
        """Run neuromirror with the mirrors and, unless another is given, the store."""
        mirrors, folder = self.mirror_harness.mirrors, store or self.mirror_harness.folder
        common = ["--mirrors", str(mirrors), "--store", str(folder)]
        return CliRunner().invoke(main, [*common, *arguments], catch_exceptions=False)

    def delete_files(self, *endings: str) -> None:
        """Delete all files whose names have one of the endings: bundles, manifests."""
        for path in self.folder.rglob("*"):
            if path.name.endswith(endings):
                path.unlink()


@dataclass
class RestoreResult:
    """The results of restoring a lock file."""

    into: Path
    outcomes: list[Outcome]
    messages: list[str] = field(default_factory=list)

    @property
    def datasets(self) -> dict[str, Outcome]:
        """Return the outcome of each dataset by name."""
        return {str(one.dataset): one for one in self.outcomes if one.action == "restore"}

    @property
    def failed(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.failed and one.action != "restore"]

    def only(self) -> Outcome:
        (found,) = self.datasets.values()
        return found

    def strategies(self, name: str) -> list[str]:
        """Return the strategies tried for a dataset, in order; only the last can have succeeded."""
        attempts = [message.partition(f"{name} from ") for message in self.messages]
        return [strategy for start, found, strategy in attempts if found and not start]

    def file_statuses(self) -> Counter[tuple[str, str | None]]:
        """Return the number of files by their status and evidence."""
        files = [outcome for outcome in self.outcomes if outcome.action == "get"]
        return Counter((file.status, file.evidence and file.evidence.value) for file in files)

    def folder(self, name: str) -> Path:
        return self.into / name.replace(":", "--").replace("/", "--")


def restore_lock(
    lock: Lock, into: Path, store: Store | None = None, **options: Any
) -> RestoreResult:
    """Restore the datasets of a lock file."""
    found = RestoreResult(into, [])
    found.outcomes = list(restore(lock, into, store, progress=found.messages.append, **options))
    return found


def run(folder: Path, *command: str) -> str:
    """Return the output of a command that must succeed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def manifest_lines(path: Path) -> list[dict[str, Any]]:
    """Return the parsed lines of a manifest."""
    content = zstandard.decompress(path.read_bytes(), 1 << 28)
    return [json.loads(line) for line in content.splitlines()]


def rewrite_manifest(
    paper: LockFolder,
    name: str,
    change: Callable[[list[dict[str, Any]]], None],
    *,
    restate: bool = False,
) -> Path:
    """Change the lines of the manifest of a pin; with ``restate``, the lock file has its sha256."""
    path = paper.lock.manifest_path(paper.pin_of(name))
    lines = manifest_lines(path)
    change(lines)
    written = (json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
    replace_beside(paper, path, zstandard.compress("".join(written).encode()), restate=restate)
    return path


def replace_beside(paper: LockFolder, path: Path, content: bytes, *, restate: bool = True) -> None:
    """Replace a file beside the lock file; with ``restate``, the lock file has its sha256."""
    old, new = (hashlib.sha256(one).hexdigest() for one in (path.read_bytes(), content))
    path.write_bytes(content)
    text = paper.file.read_text("utf-8")
    if restate and old in text:
        paper.file.write_text(text.replace(old, new), "utf-8")
