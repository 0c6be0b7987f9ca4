"""Write the git-annex branch of a large state in a worker process.

The branches of a state share no object, so each process writes its own pack. Both read the same
file of record lines. The worker reads its task as a JSON object from stdin, and writes its result
as one to stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from neuromirror.annex import UrlRemote
from neuromirror.git import KnownObjects, ObjectReader, Pack, PackWriter
from neuromirror.mint.annex_branch import AnnexBranchWriter, annex_line_from_record
from neuromirror.mint.line_sorter import LineSorter
from neuromirror.mint.transaction import MintTransaction
from neuromirror.model import NeuromirrorError, environment_without_secrets


class AnnexWorkerError(NeuromirrorError):
    """The worker process of a mint exited without a result."""


class AnnexWorker:
    """Runs the writing of the git-annex branch in a worker process, beside the rest of a mint.

    It is a context manager that kills the process at the end of the block.

    Parameters
    ----------
    records
        The file with the record lines of the state.
    repository
        The bare repository of the dataset.
    transaction
        The mint, of which the worker does a part.
    scratch
        The directory in which packs are written.
    """

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
            # -P: import nothing from the working directory
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

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def result(self) -> tuple[bytes, Pack | None]:
        """Wait for the process; return the 20-byte id of the branch's root tree, and the pack.

        The pack is None if no object is new.

        Raises
        ------
        OSError
            The worker failed with this error, for example on a full disk.
        AnnexWorkerError
            The worker exited without a result.
        """
        assert self._process is not None
        stdout, stderr = self._process.communicate()
        try:
            response = json.loads(stdout)
        except ValueError:
            stderr_lines = stderr.decode(errors="replace").strip().splitlines() or [
                "no message on stderr"
            ]
            raise AnnexWorkerError(
                f"the process that writes the git-annex branch failed with exit code "
                f"{self._process.returncode}: {stderr_lines[-1]}. Run the sync again."
            ) from None
        if "errno" in response:
            raise OSError(response["errno"], response["message"], response["file"])
        pack = response["pack"]
        if pack is None:
            return bytes.fromhex(response["tree"]), None
        pack["pack"], pack["index"] = Path(pack["pack"]), Path(pack["index"])
        return bytes.fromhex(response["tree"]), Pack(**pack)


def main() -> None:
    """Run the worker process: read a task from stdin, run it, and write its result to stdout."""
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
