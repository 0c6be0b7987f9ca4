"""Suggestions on error pages: similar datasets, versions and files."""

from __future__ import annotations

import difflib
from itertools import islice
from typing import Any

from neuromirror.index import (
    DatasetWithdrawnError,
    Index,
    UnknownDatasetError,
    UnknownFileError,
    UnknownVersionError,
)
from neuromirror.model import NeuromirrorError
from neuromirror.web.addresses import dataset_address, file_address, version_address

_MAX_SUGGESTIONS = 5
_MIN_SIMILARITY = 0.4


def suggest(
    index: Index, error: NeuromirrorError, name: str, label: str, path: str
) -> dict[str, Any]:
    """Return the variables for the template of an error page: ``suggestions`` or a ``tombstone``.

    ``suggestions`` are pairs of URL and text, for similar names. The ``tombstone`` is that of a
    withdrawn dataset. ``name``, ``label`` and ``path`` are those of the request, empty if it had
    none.
    """
    if isinstance(error, DatasetWithdrawnError):
        return {"tombstone": index.tombstone(name)}
    return {"suggestions": _similar_names(index, error, name, label, path)}


def _similar_names(
    index: Index, error: NeuromirrorError, name: str, label: str, path: str
) -> list[tuple[str, str]]:
    if isinstance(error, UnknownVersionError):
        labels = [one.label for one in index.versions(name)][::-1]
        alike = difflib.get_close_matches(label, labels, _MAX_SUGGESTIONS, _MIN_SIMILARITY)
        chosen = list(dict.fromkeys((*alike, *labels[:_MAX_SUGGESTIONS])))[:_MAX_SUGGESTIONS]
        return [
            *((version_address(name, one), f"{name}@{one}") for one in chosen),
            (dataset_address(name), f"all {len(labels)} versions of {name}"),
        ]
    if isinstance(error, UnknownFileError):
        row = index.resolve(name, label)
        return [
            *(
                (file_address(name, one.last, path), f"{path} as it was in {one.last}")
                for one in index.content_spans(row, path)[-_MAX_SUGGESTIONS:]
            ),
            (version_address(name, row.label), f"the files of {row.name}"),
        ]
    if isinstance(error, UnknownDatasetError):
        terms = name.rpartition(":")[2].replace("/", " ")
        found = islice(index.search(terms), _MAX_SUGGESTIONS)
        return [(dataset_address(one.name), f"{one.name}: {one.title}") for one in found]
    return []
