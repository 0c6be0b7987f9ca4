"""What an error page can tell beside the error: what is near to what was asked for."""

from __future__ import annotations

import difflib
from itertools import islice
from typing import Any

from neuromirror.index import (
    DatasetWithheld,
    Index,
    UnknownDataset,
    UnknownFile,
    UnknownVersion,
)
from neuromirror.model import NeuromirrorError
from neuromirror.web.addresses import dataset_address, file_address, version_address

_NEAR = 5
_ALIKE = 0.4


def helped(
    index: Index, error: NeuromirrorError, name: str, label: str, path: str
) -> dict[str, Any]:
    """(address, text) pairs as ``near``, and the ``tombstone`` of what was taken down.

    ``name``, ``label`` and ``path`` are what was asked for, as far as it was.
    """
    if isinstance(error, DatasetWithheld):
        return {"tombstone": index.tombstone(name)}
    return {"near": _near(index, error, name, label, path)}


def _near(
    index: Index, error: NeuromirrorError, name: str, label: str, path: str
) -> list[tuple[str, str]]:
    if isinstance(error, UnknownVersion):
        labels = [one.label for one in index.versions(name)][::-1]
        alike = difflib.get_close_matches(label, labels, _NEAR, _ALIKE)
        chosen = list(dict.fromkeys((*alike, *labels[:_NEAR])))[:_NEAR]
        return [
            *((version_address(name, one), f"{name}@{one}") for one in chosen),
            (dataset_address(name), f"all {len(labels)} versions of {name}"),
        ]
    if isinstance(error, UnknownFile):
        row = index.resolve(name, label)
        return [
            *(
                (file_address(name, one.last, path), f"{path} as it was in {one.last}")
                for one in index.spans(row, path)[-_NEAR:]
            ),
            (version_address(name, row.label), f"the files of {row.name}"),
        ]
    if isinstance(error, UnknownDataset):
        words = name.rpartition(":")[2].replace("/", " ")
        found = islice(index.search(words), _NEAR)
        return [(dataset_address(one.name), f"{one.name}: {one.title}") for one in found]
    return []
