"""Select the contents that a vault lacks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from neuromirror.annex import parse_key
from neuromirror.model import path_to_text
from neuromirror.transfer.findings import Finding
from neuromirror.transfer.verify_items import Item


class KeepItem(NamedTuple):
    """A content to keep.

    Attributes
    ----------
    dataset
        The name of a dataset that has it.
    version
        The label of a version that has it.
    path
        Its path there.
    key
        Its annex key.
    size
        Its size in bytes; None if unknown.
    urls
        Where to download it, best first.
    """

    dataset: str
    version: str
    path: str
    key: str
    size: int | None
    urls: tuple[str, ...]


@dataclass(slots=True)
class KeepContents:
    """The contents of versions, each once.

    Attributes
    ----------
    items
        The contents by annex key.
    findings
        Damaged manifests or records, whose files are not among the contents.
    keys
        The annex keys per dataset.
    """

    items: dict[str, KeepItem] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    keys: dict[str, list[str]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The size of all contents whose size is known."""
        return sum(one.size or 0 for one in self.items.values())


def collect_contents(files: Iterable[tuple[str, str, Item]]) -> KeepContents:
    """Collect the contents of files, each once.

    Parameters
    ----------
    files
        Dataset, label, and a file or a finding, from :func:`neuromirror.lab.digest.files_of_lock`
        or :func:`neuromirror.lab.digest.files_of_version`.

    Returns
    -------
    KeepContents
        The contents.
    """
    found = KeepContents()
    seen: dict[str, set[str]] = {}
    for dataset, label, item in files:
        if isinstance(item, Finding):
            if item.failed:
                found.findings.append(item.for_version(dataset, label))
            continue
        of_dataset = seen.setdefault(dataset, set())
        if item.key not in of_dataset:
            of_dataset.add(item.key)
            found.keys.setdefault(dataset, []).append(item.key)
        if item.key not in found.items:
            size = parse_key(item.key).size
            path = path_to_text(item.path)
            found.items[item.key] = KeepItem(dataset, label, path, item.key, size, item.urls)
    return found
