"""The git-annex branch of a large state, written by a process of its own.

The two branches have no object in common, so each process writes its own pack; both read the same
file of record lines. The worker is told what to do by a JSON object on its stdin, and answers by
one on its stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from neuromirror.annex import Holder
from neuromirror.mint.annex_branch import AnnexBranch, annex_line_of
from neuromirror.mint.objects import ObjectReader
from neuromirror.mint.packs import KnownObjects, Pack, PackWriter
from neuromirror.mint.sorting import LineSorter
from neuromirror.mint.work import Work
from neuromirror.model import NeuromirrorError, environment_without_secrets


class WorkerFailed(NeuromirrorError):
    """The second process of a mint ended without an answer."""


class AnnexWorker:
    """The second process of a mint, from the beginning of the block to its end."""

    def __init__(self, records: Path, repository: Path, work: Work, scratch: Path) -> None:
        task = {
            "records": str(records),
            "repository": str(repository),
            "scratch": str(scratch),
            "timestamp": work.timestamp,
            "root": None if work.annex_root is None else work.annex_root.hex(),
            "holders": [asdict(one) for one in work.holders],
        }
        self._task = json.dumps(task).encode()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            # -P: what lies in the working folder is not imported
            [sys.executable, "-P", "-m", "neuromirror.mint.annex_worker"],
            env=environment_without_secrets(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(self._task)
        self._process.stdin.close()
        self._process.stdin = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def result(self) -> tuple[bytes, Pack | None]:
        """The branch's root tree and its pack; waits for the process.

        Raises the OSError that the process met, else WorkerFailed.
        """
        assert self._process is not None
        answer, complaint = self._process.communicate()
        try:
            said = json.loads(answer)
        except ValueError:
            words = complaint.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise WorkerFailed(
                f"the second process of a mint died (exit code {self._process.returncode}): "
                f"{words[-1]}; run the sync again"
            ) from None
        if "errno" in said:
            raise OSError(said["errno"], said["message"], said["file"])
        pack = said["pack"]
        if pack is None:
            return bytes.fromhex(said["tree"]), None
        pack["pack"], pack["index"] = Path(pack["pack"]), Path(pack["index"])
        return bytes.fromhex(said["tree"]), Pack(**pack)


def main() -> None:
    """Does one task."""
    try:
        said = _write(json.load(sys.stdin))
    except OSError as error:
        said = {"errno": error.errno, "message": error.strerror, "file": error.filename}
    json.dump(said, sys.stdout)


def _write(task: dict[str, Any]) -> dict[str, Any]:
    repository, scratch = Path(task["repository"]), Path(task["scratch"])
    root = None if task["root"] is None else bytes.fromhex(task["root"])
    known = KnownObjects(repository / "objects")
    with (
        ObjectReader(repository) as reader,
        PackWriter(scratch, known) as pack,
        LineSorter(scratch) as lines,
        Path(task["records"]).open("rb", buffering=1 << 18) as file,
    ):
        for record in file:
            line = annex_line_of(record)
            if line is not None:
                lines.add(line)
        holders = [Holder(**one) for one in task["holders"]]
        tree = AnnexBranch(pack, reader, task["timestamp"], root, holders).write(lines)
        done = pack.finish()
    known.close()
    described = None
    if done is not None:
        described = {
            "name": done.name,
            "pack": str(done.pack),
            "index": str(done.index),
            "objects": done.objects,
            "bytes": done.bytes,
        }
    return {"tree": tree.hex(), "pack": described}


if __name__ == "__main__":
    main()
