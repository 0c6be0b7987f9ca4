"""Suggestions on error pages: similar datasets, versions and files."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from neuromirror.index import (
    DatasetRow,
    DatasetWithdrawnError,
    Index,
    MalformedQueryError,
    UnknownDatasetError,
    UnknownFileError,
    UnknownMirrorError,
    UnknownVersionError,
)
from neuromirror.model import NeuromirrorError
from neuromirror.web.addresses import dataset_address, file_address, search_address, version_address

_MAX_SUGGESTIONS = 5
_MIN_SIMILARITY = 0.4
_MAX_WRONG = 20


def suggest(
    index: Index, error: NeuromirrorError, name: str, label: str, path: str
) -> dict[str, Any]:
    """Return the variables for the template of an error page: ``suggestions`` or a ``tombstone``.

    ``suggestions`` are pairs of URL and text, for similar names; a ``message`` replaces one that
    is written for operators. The ``tombstone`` is that of a withdrawn dataset. ``name``, ``label``
    and ``path`` are those of the request, empty if it had none.
    """
    if isinstance(error, DatasetWithdrawnError):
        return {"tombstone": index.tombstone(name)}
    found: dict[str, Any] = {"suggestions": _similar_names(index, error, name, label, path)}
    if isinstance(error, UnknownMirrorError):
        found["message"] = f"This catalogue has no archive {name.partition(':')[0]!r}."
    elif isinstance(error, UnknownDatasetError) and ":" in name:
        found["message"] = f"This catalogue has no dataset {name!r}."
    elif isinstance(error, UnknownDatasetError):
        found["message"] = (
            f"{name!r} is not the name of a dataset, which consists of the name of an archive and "
            "an identifier"
        )
    return found


def find_cause(
    index: Index, error: NeuromirrorError, names: Mapping[str, tuple[str, str]]
) -> str | None:
    """Return the key of the name and label that cause an error; None if none of them does.

    A single one is always the cause. The search ends with the 20th name that is wrong in another
    way, because each is compared with many names.

    Raises
    ------
    QueryStoppedError
    """
    if len(names) == 1:
        return next(iter(names))
    wrong = 0
    for text, (name, label) in names.items():
        index.raise_if_stopped()  # the queries are too short to notice it
        try:
            index.resolve(name, label or "latest")
        except type(error):
            return text
        except NeuromirrorError:
            wrong += 1
            if wrong == _MAX_WRONG:
                break
    return None


def _similar_names(
    index: Index, error: NeuromirrorError, name: str, label: str, path: str
) -> list[tuple[str, str]]:
    if isinstance(error, UnknownVersionError):
        labels = [one.label for one in index.versions(name)][::-1]
        alike = difflib.get_close_matches(label, labels, _MAX_SUGGESTIONS, _MIN_SIMILARITY)
        chosen = list(dict.fromkeys((*alike, *labels[:_MAX_SUGGESTIONS])))[:_MAX_SUGGESTIONS]
        return [
            *((version_address(name, one), f"{name}@{one}") for one in chosen),
            (dataset_address(name), f"the versions of {name}"),
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
    if isinstance(error, UnknownMirrorError):
        local_id = name.partition(":")[2]
        alike = [one for one in index.similar_names(name) if one.partition(":")[2] == local_id]
        mirrors = [one.mirror for one in index.mirror_status()]
        return [
            *((dataset_address(one), one) for one in alike),
            *((search_address("", [("archive", one)]), f"datasets of {one}") for one in mirrors),
        ]
    if isinstance(error, UnknownDatasetError):
        terms = name.rpartition(":")[2].replace("/", " ")
        rows = islice(_search(index, terms), _MAX_SUGGESTIONS)
        found = {one.name: f"{one.name}: {one.title}" for one in rows}
        found |= {one: one for one in index.similar_names(name) if one not in found}
        links = [(dataset_address(one), text) for one, text in found.items()]
        return links or [(search_address(""), "all datasets of this catalogue")]
    return []


def _search(index: Index, terms: str) -> Iterator[DatasetRow]:
    with suppress(MalformedQueryError):
        yield from index.search(terms)
