"""What commands have in common: results in DataLad's words, parameters, and where the store is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromirror.datalad_ext.datalad_api import (
    EnsureDataset,
    EnsureInt,
    EnsureNone,
    EnsureStr,
    Parameter,
    get_status_dict,
    require_dataset,
    resolve_path,
)

if TYPE_CHECKING:
    from neuromirror.index import Index
    from neuromirror.lab import Outcome
    from neuromirror.store import Store

LOCK = "datasets.lock"

ResultRecord = dict[str, Any]
"""A result as DataLad has it: action, status, path, type, refds, message, and more."""

DATASET = Parameter(
    args=("-d", "--dataset"),
    doc="""the dataset to work in. Without it, it is the one around the current directory""",
    constraints=EnsureDataset() | EnsureNone(),
)
STORE = Parameter(
    args=("--store",),
    metavar="PATH",
    doc="""the store of the mirror, as made by 'neuromirror sync'. By default the environment
    variable NEUROMIRROR_STORE names it, and else it is 'store' in the current directory""",
    constraints=EnsureStr() | EnsureNone(),
)
JOBS = Parameter(
    args=("-J", "--jobs"),
    metavar="NJOBS",
    doc="""how many files at a time. By default mirror-get fetches 32, and mirror-verify hashes one
    a processor or asks for 8""",
    constraints=EnsureInt() | EnsureNone(),
)


def outcome_result(
    outcome: Outcome, action: str, path: Path, kind: str, refds: str | None
) -> ResultRecord:
    """An outcome of the lab as a result of DataLad's, of a ``file`` or a ``dataset``."""
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
    """The result that stands for what could not be begun, or not be ended."""
    found: ResultRecord = get_status_dict(
        action=action, status="error", path=str(path), type=kind, message=str(error), refds=refds
    )
    return found


def require_installed(dataset: Any, purpose: str) -> Any:
    """The installed dataset that is meant; raises DataLad's NoDatasetFound."""
    return require_dataset(dataset, check_installed=True, purpose=purpose)


def resolve_datalad_path(path: str | os.PathLike[str], dataset: Any) -> Path:
    """A path as DataLad takes it: of a Dataset object within that, else of where one stands."""
    return Path(resolve_path(path, dataset))


def lock_path(lock: str | None, dataset: Any) -> Path:
    """The lock that is named, or else that of the dataset, or of where one stands."""
    if lock is not None:
        return resolve_datalad_path(lock, dataset)
    return Path(require_installed(dataset, "find its lock").path if dataset else Path.cwd()) / LOCK


def reference_path(dataset: Any) -> str | None:
    """The path of the dataset that was named, if one was."""
    return None if dataset is None else str(require_installed(dataset, "report on it").path)


def as_tuple(values: str | Sequence[str] | None) -> tuple[str, ...]:
    """Values of a parameter that may be given alone, or not at all."""
    if values is None:
        return ()
    return (values,) if isinstance(values, str) else tuple(map(str, values))


def open_store(store: str | None) -> Store:
    """The store; raises NotAStoreError."""
    from neuromirror.store import Store

    return Store.open(Path(store or os.environ.get("NEUROMIRROR_STORE") or "store"))


@contextmanager
def open_index(store: Store) -> Iterator[Index]:
    """The index of a store, read only."""
    from neuromirror.index import Index
    from neuromirror.store.private_store import is_private_store

    named = None if is_private_store(store.root) else os.environ.get("NEUROMIRROR_INDEX")
    index = Index.open_readonly(Path(named) if named else store.index_path)
    try:
        yield index
    finally:
        index.close()


def split_version(name: str) -> tuple[str, str]:
    """``(dataset, label)`` of ``<dataset>@<label>``; without a label it is ``latest``."""
    dataset, _, label = name.partition("@")
    return dataset, label or "latest"
