"""Read pinned states over the network, verified; the modules are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromirror.stream.errors import (
        AddressUnresolvedError,
        ContentGoneError,
        ExcludedFileError,
        FileMissingError,
        LocationsFailedError,
        NotAFileError,
        StreamError,
        UnverifiableError,
        WrongBytesError,
    )
    from neuromirror.stream.file import VerifiedFile, VerifiedObject
    from neuromirror.stream.git_tree import (
        AccessRules,
        CloneTree,
        FolderEntry,
        GitTree,
        VersionTree,
    )
    from neuromirror.stream.kerchunk import (
        ReferencesRefusedError,
        ReferencesResult,
        export_references,
    )
    from neuromirror.stream.opening import open, open_object, open_tree, tree_of_version
    from neuromirror.stream.readers import Transport
    from neuromirror.stream.remote_trees import LockTree

_EXPORTS = {
    name: f"neuromirror.stream.{module}"
    for module, names in {
        "errors": (
            "AddressUnresolvedError ContentGoneError ExcludedFileError FileMissingError "
            "LocationsFailedError NotAFileError StreamError UnverifiableError WrongBytesError"
        ),
        "file": "VerifiedFile VerifiedObject",
        "git_tree": "AccessRules CloneTree FolderEntry GitTree VersionTree",
        "kerchunk": "ReferencesRefusedError ReferencesResult export_references",
        "opening": "open open_object open_tree tree_of_version",
        "readers": "Transport",
        "remote_trees": "LockTree",
    }.items()
    for name in names.split()
}
"""The module of each name."""


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


__all__ = [
    "AccessRules",
    "AddressUnresolvedError",
    "CloneTree",
    "ContentGoneError",
    "ExcludedFileError",
    "FileMissingError",
    "FolderEntry",
    "GitTree",
    "LocationsFailedError",
    "LockTree",
    "NotAFileError",
    "ReferencesRefusedError",
    "ReferencesResult",
    "StreamError",
    "Transport",
    "UnverifiableError",
    "VerifiedFile",
    "VerifiedObject",
    "VersionTree",
    "WrongBytesError",
    "export_references",
    "open",
    "open_object",
    "open_tree",
    "tree_of_version",
]
