"""Work with mirrored versions: pin, restore, get, verify, compare, cite and reproduce them.

The modules are imported on first use of a name.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromirror.lab.addresses import find_any, queries_of_file
    from neuromirror.lab.audit import audit
    from neuromirror.lab.cite import (
        CitationCollection,
        CitedWork,
        cite,
        read_work,
        state_of_clone,
        state_of_version,
        states_of_lock,
        write_citation,
    )
    from neuromirror.lab.diff import (
        ChangeCounts,
        DiffSide,
        FileChange,
        clone_side,
        diff,
        version_side,
    )
    from neuromirror.lab.lock_manifests import ListedFile, ListedSubdataset, LockManifestReader
    from neuromirror.lab.lockfile import Lock, Pin, load_lock
    from neuromirror.lab.output_files import LockBusyError
    from neuromirror.lab.pin import PinRequest, find_outdated, pin
    from neuromirror.lab.reproduce import (
        MintDifferences,
        PathSample,
        Reproduction,
        SubdatasetReproduction,
        VersionIds,
        reproduce,
    )
    from neuromirror.lab.restore import restore
    from neuromirror.lab.verify import verify
    from neuromirror.transfer import get
    from neuromirror.transfer.outcomes import (
        Finding,
        Health,
        MessageCallback,
        Outcome,
        Tally,
        tally,
    )
    from neuromirror.transfer.verified_repository import NotADatasetError

_MODULES = {
    "lab.audit": "audit",
    "lab.cite": "CitationCollection CitedWork cite read_work state_of_clone state_of_version"
    " states_of_lock write_citation",
    "lab.diff": "ChangeCounts DiffSide FileChange clone_side diff version_side",
    "lab.addresses": "find_any queries_of_file",
    "lab.lock_manifests": "ListedFile ListedSubdataset LockManifestReader",
    "lab.lockfile": "Lock Pin load_lock",
    "lab.output_files": "LockBusyError",
    "lab.pin": "PinRequest find_outdated pin",
    "lab.reproduce": "MintDifferences PathSample Reproduction SubdatasetReproduction VersionIds"
    " reproduce",
    "lab.restore": "restore",
    "lab.verify": "verify",
    "transfer": "get",
    "transfer.outcomes": "Finding Health MessageCallback Outcome Tally tally",
    "transfer.verified_repository": "NotADatasetError",
}
_EXPORTS = {
    name: f"neuromirror.{module}" for module, names in _MODULES.items() for name in names.split()
}
"""The module of each name."""


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


class _LabModule(ModuleType):
    # a function and its module can share a name: the attribute of the package is always the
    # function, whichever is imported first
    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _EXPORTS.get(name) == f"{__name__}.{name}":
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _LabModule

__all__ = ["Finding", "Health", "MessageCallback", "Outcome", "Tally", "tally"]
__all__ += ["CitationCollection", "CitedWork", "cite", "read_work", "write_citation"]
__all__ += ["ChangeCounts", "DiffSide", "FileChange", "clone_side", "diff", "version_side"]
__all__ += ["ListedFile", "ListedSubdataset", "Lock", "LockManifestReader", "Pin", "PinRequest"]
__all__ += ["LockBusyError", "NotADatasetError"]
__all__ += ["MintDifferences", "PathSample", "Reproduction", "SubdatasetReproduction", "VersionIds"]
__all__ += ["audit", "find_any", "find_outdated", "get", "load_lock", "pin", "queries_of_file"]
__all__ += ["reproduce", "restore", "verify"]
__all__ += ["state_of_clone", "state_of_version", "states_of_lock"]
