"""What a lab does with mirrored versions: pin, restore, get, verify, compare, cite, mint again.

Nothing is imported before it is asked for: a verb loads its own part of the package and no other.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromirror.lab.again import NotMinted
    from neuromirror.lab.alone import LockBusy
    from neuromirror.lab.audit import audit
    from neuromirror.lab.cite import (
        Collection,
        Work,
        cite,
        read_work,
        state_of_clone,
        state_of_version,
        states_of_lock,
        write_citation,
    )
    from neuromirror.lab.diff import Counts, FileChange, Side, clone_side, diff, version_side
    from neuromirror.lab.differences import Differences, Ids, Paths
    from neuromirror.lab.find import find_any, queries_of_file
    from neuromirror.lab.get import get
    from neuromirror.lab.lockfile import Lock, Pin, load_lock
    from neuromirror.lab.manifests import ListedFile, ListedPart, ManifestReader
    from neuromirror.lab.outdated import outdated
    from neuromirror.lab.pin import Wanted, pin
    from neuromirror.lab.reproduce import PartReproduction, Progress, Reproduction, reproduce
    from neuromirror.lab.restore import restore
    from neuromirror.lab.results import Outcome, Tally, tally
    from neuromirror.lab.verify import Finding, Health, NotADataset, verify

_HOMES = {
    "Collection": "cite",
    "Counts": "diff",
    "Differences": "differences",
    "FileChange": "diff",
    "Finding": "verify",
    "Health": "verify",
    "Ids": "differences",
    "ListedFile": "manifests",
    "ListedPart": "manifests",
    "Lock": "lockfile",
    "LockBusy": "alone",
    "ManifestReader": "manifests",
    "NotADataset": "verify",
    "NotMinted": "again",
    "Outcome": "results",
    "PartReproduction": "reproduce",
    "Paths": "differences",
    "Pin": "lockfile",
    "Progress": "reproduce",
    "Reproduction": "reproduce",
    "Side": "diff",
    "Tally": "results",
    "Wanted": "pin",
    "Work": "cite",
    "audit": "audit",
    "cite": "cite",
    "clone_side": "diff",
    "diff": "diff",
    "find_any": "find",
    "get": "get",
    "load_lock": "lockfile",
    "outdated": "outdated",
    "pin": "pin",
    "queries_of_file": "find",
    "read_work": "cite",
    "reproduce": "reproduce",
    "restore": "restore",
    "state_of_clone": "cite",
    "state_of_version": "cite",
    "states_of_lock": "cite",
    "tally": "results",
    "verify": "verify",
    "version_side": "diff",
    "write_citation": "cite",
}
"""The module of each name."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


class _Lab(ModuleType):
    # a verb and the module it stands in share a name: on the package it is the verb, whichever
    # of the two is imported first
    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Lab

__all__ = [
    "Collection",
    "Counts",
    "Differences",
    "FileChange",
    "Finding",
    "Health",
    "Ids",
    "ListedFile",
    "ListedPart",
    "Lock",
    "LockBusy",
    "ManifestReader",
    "NotADataset",
    "NotMinted",
    "Outcome",
    "PartReproduction",
    "Paths",
    "Pin",
    "Progress",
    "Reproduction",
    "Side",
    "Tally",
    "Wanted",
    "Work",
    "audit",
    "cite",
    "clone_side",
    "diff",
    "find_any",
    "get",
    "load_lock",
    "outdated",
    "pin",
    "queries_of_file",
    "read_work",
    "reproduce",
    "restore",
    "state_of_clone",
    "state_of_version",
    "states_of_lock",
    "tally",
    "verify",
    "version_side",
    "write_citation",
]
