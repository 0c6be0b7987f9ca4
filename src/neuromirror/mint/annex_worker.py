"""Write the git-annex branch of a large state in a worker process.

The branches of a state share no object, so each process writes its own pack. Both read the same
file, such as one of record lines. The worker reads its task as a JSON object from stdin, and writes
its result as one to stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from msgspec.structs import asdict

from neuromirror.annex import UrlRemote
from neuromirror.git import KnownObjects, ObjectReader, Pack, PackWriter
from neuromirror.mint.annex_branch import AnnexBranchWriter, annex_line_from_record
from neuromirror.mint.transaction import LineSorter, MintTransaction
from neuromirror.model import NeuromirrorError, environment_without_secrets


class AnnexWorkerError(NeuromirrorError):
    """The worker process of a mint exited without a result."""


class AnnexWorker:
    """Runs the writing of the git-annex branch in a worker process, beside the rest of a mint.

    It is a context manager that kills the process at the end of the block.

    Parameters
    ----------
    module
        The module that the process runs; it calls :func:`run_worker`.
    task
        The task of the worker, as a JSON object.
    """

    def __init__(self, module: str, task: Mapping[str, Any]) -> None:
        self._module = module
        self._task = json.dumps(task).encode()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            # -P: import nothing from the working directory
            [sys.executable, "-P", "-m", self._module],
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
        """Wait for the process; return the 20-byte id that it returned, and its pack.

        The pack is None if no object is new.

        Raises
        ------
        OSError
            The worker failed with this error, for example on a full disk.
        AnnexWorkerError
            The worker exited without a result, or reported why it has none.
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
                f"{self._process.returncode}: {stderr_lines[-1]}. Run the command again."
            ) from None
        if "error" in response:
            raise AnnexWorkerError(response["error"])
        if "errno" in response:
            raise OSError(response["errno"], response["message"], response["file"])
        pack = response["pack"]
        if pack is None:
            return bytes.fromhex(response["id"]), None
        pack["pack"], pack["index"] = Path(pack["pack"]), Path(pack["index"])
        return bytes.fromhex(response["id"]), Pack(**pack)


def snapshot_worker(
    records: Path, repository: Path, transaction: MintTransaction, scratch: Path
) -> AnnexWorker:
    """Return the worker that writes the git-annex branch of a snapshot; its id is the root tree.

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
    task = {
        "records": str(records),
        "repository": str(repository),
        "scratch": str(scratch),
        "timestamp": transaction.timestamp,
        "root": None if transaction.annex_root is None else transaction.annex_root.hex(),
        "holders": [asdict(holder) for holder in transaction.holders],
    }
    return AnnexWorker("neuromirror.mint.annex_worker", task)


def run_worker(write: Callable[[dict[str, Any]], tuple[bytes, Pack | None]]) -> None:
    """Run a worker process: read a task from stdin, run it, and write its result to stdout.

    Parameters
    ----------
    write
        Runs the task; returns a 20-byte id, and the pack.
    """
    response: dict[str, Any]
    try:
        found, pack = write(json.load(sys.stdin))
        response = {
            "id": found.hex(),
            "pack": None
            if pack is None
            else {**asdict(pack), "pack": str(pack.pack), "index": str(pack.index)},
        }
    except NeuromirrorError as error:
        response = {"error": str(error)}
    except OSError as error:
        response = {"errno": error.errno, "message": error.strerror, "file": error.filename}
    json.dump(response, sys.stdout)


def _write(task: dict[str, Any]) -> tuple[bytes, Pack | None]:
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
    return tree, done


if __name__ == "__main__":
    run_worker(_write)
