"""Read pinned states over the network, verified; the modules are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromirror.stream.addresses import open_tree, tree_of_version
    from neuromirror.stream.clone_tree import CloneTree
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
    from neuromirror.stream.file import VerifiedFile
    from neuromirror.stream.git_tree import GitTree
    from neuromirror.stream.kerchunk import (
        ReferencesRefusedError,
        ReferencesResult,
        export_references,
    )
    from neuromirror.stream.lock_tree import LockTree
    from neuromirror.stream.opening import open, open_object
    from neuromirror.stream.transport import Transport
    from neuromirror.stream.trees import AccessRules, FolderEntry, VersionTree
    from neuromirror.stream.verified_object import VerifiedObject
    from neuromirror.stream.zarr_store import VersionStore, open_zarr

_EXPORTS = {
    "AccessRules": "trees",
    "AddressUnresolvedError": "errors",
    "CloneTree": "clone_tree",
    "ContentGoneError": "errors",
    "ExcludedFileError": "errors",
    "FileMissingError": "errors",
    "FolderEntry": "trees",
    "GitTree": "git_tree",
    "LocationsFailedError": "errors",
    "LockTree": "lock_tree",
    "NotAFileError": "errors",
    "ReferencesRefusedError": "kerchunk",
    "ReferencesResult": "kerchunk",
    "StreamError": "errors",
    "Transport": "transport",
    "UnverifiableError": "errors",
    "VerifiedFile": "file",
    "VerifiedObject": "verified_object",
    "VersionStore": "zarr_store",
    "VersionTree": "trees",
    "WrongBytesError": "errors",
    "export_references": "kerchunk",
    "open": "opening",
    "open_object": "opening",
    "open_tree": "addresses",
    "open_zarr": "zarr_store",
    "tree_of_version": "addresses",
}
"""The module of each name."""


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


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
    "VersionStore",
    "VersionTree",
    "WrongBytesError",
    "export_references",
    "open",
    "open_object",
    "open_tree",
    "open_zarr",
    "tree_of_version",
]
