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

from neuromirror.annex import UrlRemote
from neuromirror.git import KnownObjects, ObjectReader, Pack, PackWriter
from neuromirror.mint.annex_branch import AnnexBranchWriter, annex_line_from_record
from neuromirror.mint.line_sorter import LineSorter
from neuromirror.mint.transaction import MintTransaction
from neuromirror.model import NeuromirrorError, environment_without_secrets


class AnnexWorkerError(NeuromirrorError):
    """The second process of a mint ended without an answer."""


class AnnexWorker:
    """The second process of a mint, from the beginning of the block to its end."""

    def __init__(
        self, records: Path, repository: Path, transaction: MintTransaction, scratch: Path
    ) -> None:
        task = {
            "records": str(records),
            "repository": str(repository),
            "scratch": str(scratch),
            "timestamp": transaction.timestamp,
            "root": None if transaction.annex_root is None else transaction.annex_root.hex(),
            "holders": [asdict(one) for one in transaction.holders],
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

        Raises the OSError that the process met, else AnnexWorkerError.
        """
        assert self._process is not None
        stdout, stderr = self._process.communicate()
        try:
            response = json.loads(stdout)
        except ValueError:
            stderr_lines = stderr.decode(errors="replace").strip().splitlines() or [
                "no reason given"
            ]
            raise AnnexWorkerError(
                f"the second process of a mint died (exit code {self._process.returncode}): "
                f"{stderr_lines[-1]}; run the sync again"
            ) from None
        if "errno" in response:
            raise OSError(response["errno"], response["message"], response["file"])
        pack = response["pack"]
        if pack is None:
            return bytes.fromhex(response["tree"]), None
        pack["pack"], pack["index"] = Path(pack["pack"]), Path(pack["index"])
        return bytes.fromhex(response["tree"]), Pack(**pack)


def main() -> None:
    """Does one task."""
    try:
        response = _write(json.load(sys.stdin))
    except OSError as error:
        response = {"errno": error.errno, "message": error.strerror, "file": error.filename}
    json.dump(response, sys.stdout)


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
            line = annex_line_from_record(record)
            if line is not None:
                lines.add(line)
        holders = [UrlRemote(**one) for one in task["holders"]]
        tree = AnnexBranchWriter(pack, reader, task["timestamp"], root, holders).write(lines)
        done = pack.finish()
    known.close()
    description = None
    if done is not None:
        description = {
            "name": done.name,
            "pack": str(done.pack),
            "index": str(done.index),
            "objects": done.objects,
            "bytes": done.bytes,
        }
    return {"tree": tree.hex(), "pack": description}


if __name__ == "__main__":
    main()
