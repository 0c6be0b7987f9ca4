"""Helpers shared by the commands: results, parameters, and access to the store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datalad.distribution.dataset import EnsureDataset, require_dataset, resolve_path
from datalad.interface.results import get_status_dict
from datalad.support.constraints import EnsureInt, EnsureNone, EnsureStr
from datalad.support.param import Parameter

if TYPE_CHECKING:
    from neuromirror.index import Index
    from neuromirror.lab import Outcome
    from neuromirror.store import Store

LOCK = "datasets.lock"

ResultRecord = dict[str, Any]
"""A DataLad result: action, status, path, type, refds, message, and further fields."""

DATASET = Parameter(
    args=("-d", "--dataset"),
    doc="""the dataset. By default the one that contains the current directory""",
    constraints=EnsureDataset() | EnsureNone(),
)


def path_option(*names: str, doc: str) -> Parameter:
    """Return an option that takes a path; by default None."""
    return Parameter(args=names, metavar="PATH", doc=doc, constraints=EnsureStr() | EnsureNone())


STORE = path_option(
    "--store",
    doc="""the mirror store, created by 'neuromirror sync'. By default the environment variable
    NEUROMIRROR_STORE, or 'store' in the current directory""",
)
JOBS = Parameter(
    args=("-J", "--jobs"),
    metavar="NJOBS",
    doc="""number of concurrent files. By default 32 for mirror-get; for mirror-verify one per
    processor, or 8 with --what remote or full""",
    constraints=EnsureInt() | EnsureNone(),
)


def outcome_result(
    outcome: Outcome, action: str, path: Path, kind: str, refds: str | None
) -> ResultRecord:
    """Convert an outcome of a command to a result record of DataLad.

    Parameters
    ----------
    outcome
        The outcome.
    action
        The name of the DataLad command.
    path
        The path that was processed.
    kind
        The type of the path, ``file`` or ``dataset``.
    refds
        The path of the dataset argument; None without one.
    """
    more = {
        "mirror_dataset": outcome.dataset,
        "mirror_version": outcome.version,
        "key": outcome.key,
        "bytesize": outcome.size,
        "evidence": None if outcome.evidence is None else outcome.evidence.value,
        "checked": outcome.checked,
        "url": outcome.url,
        "latest": outcome.latest,
    }
    found: ResultRecord = get_status_dict(
        action=action,
        status=outcome.status,
        path=str(path),
        type=kind,
        message=outcome.message or None,
        refds=refds,
        **{name: value for name, value in more.items() if value is not None},
    )
    return found


def failure_result(
    action: str, path: Path, kind: str, refds: str | None, error: Exception
) -> ResultRecord:
    """Return the DataLad result record for a command that failed as a whole with ``error``.

    The other parameters are those of :func:`outcome_result`.
    """
    found: ResultRecord = get_status_dict(
        action=action, status="error", path=str(path), type=kind, message=str(error), refds=refds
    )
    return found


def require_installed(dataset: Any, purpose: str) -> Any:
    """Return the installed dataset; raises DataLad's NoDatasetFound."""
    return require_dataset(dataset, check_installed=True, purpose=purpose)


def resolve_datalad_path(path: str | os.PathLike[str], dataset: Any) -> Path:
    """Resolve a path as DataLad does: relative to a Dataset object, or the current directory."""
    return Path(resolve_path(path, dataset))


def lock_path(lock: str | None, dataset: Any) -> Path:
    """Return the lock file: the given one, or that of the dataset or current directory."""
    if lock is not None:
        return resolve_datalad_path(lock, dataset)
    return Path(require_installed(dataset, "find its lock").path if dataset else Path.cwd()) / LOCK


def reference_path(dataset: Any) -> str | None:
    """Return the path of the dataset argument, None without one."""
    return None if dataset is None else str(require_installed(dataset, "report on it").path)


def as_tuple(values: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the values of a parameter that may be single, multiple or missing."""
    if values is None:
        return ()
    return (values,) if isinstance(values, str) else tuple(map(str, values))


def open_store(store: str | None) -> Store:
    """Open the store at a path; raise NotAStoreError for any other folder.

    For None it is the store in ``NEUROMIRROR_STORE``, or ``./store``.
    """
    from neuromirror.store import Store

    return Store.open(Path(store or os.environ.get("NEUROMIRROR_STORE") or "store"))


@contextmanager
def open_index(store: Store) -> Iterator[Index]:
    """Open the index of a store, read only."""
    from neuromirror.index import Index
    from neuromirror.store.private_store import is_private_store

    named = None if is_private_store(store.root) else os.environ.get("NEUROMIRROR_INDEX")
    index = Index.open_readonly(Path(named) if named else store.index_path)
    try:
        yield index
    finally:
        index.close()


def split_version(name: str) -> tuple[str, str]:
    """Split ``<dataset>@<label>`` into dataset and label; the default label is ``latest``."""
    dataset, _, label = name.partition("@")
    return dataset, label or "latest"
