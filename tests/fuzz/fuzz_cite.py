"""Targets: descriptions of commits, and citations made of them and of documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import yaml
from fuzz_core import agree, target, values
from fuzz_git import scratch
from fuzz_sources import _BOSS, _DESCRIPTION, _INFO, _LAYER, _NDSTORE

from neuromirror.lab.cite.errors import NotCitable
from neuromirror.lab.cite.formats import cite
from neuromirror.lab.cite.reading import read_work
from neuromirror.lab.cite.works import Collection, State
from neuromirror.lab.committed import Committed, CommitUnreadable
from neuromirror.mint import ObjectMissing, ObjectReader
from neuromirror.model import NeuromirrorError

_DESCRIBED: dict[str, Any] = {
    **{"dataset": "dandi:000027", "source": "https://x.example.org/", "version": "0.1"},
    **{"kind": "published", "state": "sha256:" + "0" * 64, "title": "A title"},
    **{"files": 1, "bytes": 2, "evidence": {"sha256": 1}, "exceptions": []},
    **{"license": ["spdx:CC-BY-4.0"], "doi": "10.48324/dandi.000027", "inputs": ["raw_1"]},
    **{"landing-page": "https://x.example.org/", "form": "manifest", "documents": []},
    "manifest-only": {"files": 3, "bytes": 4},
    "parts": {
        "a.zarr": {
            **{"id": "52c46016-01f6-5ad2-8d65-ac9dcb7f1eed", "local-id": "zarr/1"},
            **{"state": "sha256:" + "1" * 64, "files": 1, "bytes": 2},
        }
    },
    "attributes": {"investigator": ["Jane Doe"], "created": ["2024-01-01"], "funder": ["NIH"]},
}
_DOCUMENTS: dict[str, Any] = {
    "dandiset.yaml": {
        **_INFO["metadata"],  # type: ignore[dict-item]
        "identifier": "DANDI:000027",
        "datePublished": "2024-01-02T00:00:00Z",
        "contributor": [
            {
                "name": "Doe, Jane",
                "identifier": "0000-0002-1825-0097",
                "roleName": ["dcite:Author", "dcite:Funder"],
                "includeInCitation": True,
                "awardNumber": "1",
                "affiliation": [{"name": "X", "identifier": "https://ror.org/01cwqze88"}],
            }
        ],
        "relatedResource": [{"relation": "dcite:IsDescribedBy", "identifier": "doi:10.1/x"}],
        "keywords": ["a", "b"],
    },
    "data_description.json": _DESCRIPTION,
    ".boss/metadata.json": {"channel": _BOSS["metadata"]},
    ".ndstore/project.json": _NDSTORE["project"],
    "provenance": _LAYER,
}
_SHORT = ("text", "bibtex", "csl", "cff", "datacite", "ro-crate", "croissant")


def _seeds() -> list[bytes]:
    return [json.dumps({path: document}).encode() for path, document in _DOCUMENTS.items()]


@target("cite", NotCitable, seeds=_seeds, kind="json")
def citation(data: bytes) -> None:
    """Upstream's documents, cited: whatever they hold, each format stays what it is."""
    try:
        held = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(held, dict):
        return
    described = {**_DESCRIBED, "documents": list(held)}

    _cite(described, held)


@target("dataset-json", NeuromirrorError, seeds=values(json.dumps(_DESCRIBED)), kind="json")
def dataset_json(data: bytes) -> None:
    """``.neuromirror/dataset.json`` of a commit that somebody else may have written."""

    class _Described(ObjectReader):
        def read(self, name: str) -> bytes:
            return data

        def commit_tree(self, commit: str) -> bytes:
            return bytes(20)

    with patch("neuromirror.lab.committed.ObjectReader", _Described):
        found = Committed(scratch(), "0" * 40)
    agree(found.only_files >= 0, found.only_files)
    if found.form != "files":
        found.state()
    with suppress(CommitUnreadable):
        part = found._part(b"a.zarr", "0" * 40)
        agree(isinstance(part.files, int) and isinstance(part.state, str), part)
    _cite(data, {})


def _cite(described: Any, held: Mapping[str, Any]) -> None:
    """Cite a commit with this description and these documents in all formats."""

    class _Documents(ObjectReader):
        def read(self, name: str) -> bytes:
            path = name.partition(":")[2]
            if path == ".neuromirror/dataset.json":
                return described if isinstance(described, bytes) else json.dumps(described).encode()
            if path in held:
                return json.dumps(held[path]).encode()
            raise ObjectMissing(name)

    moment = datetime(2024, 1, 1, tzinfo=UTC)
    state = State(scratch(), "dandi:000027", "0.1", "0" * 40, "1" * 40, moment)
    with patch("neuromirror.lab.cite.reading.ObjectReader", _Documents):
        work = read_work(state)
    for form in _SHORT:
        made = "".join(cite(Collection((work,)), form, files=False))
        made.encode("utf-8")
        if form in ("csl", "datacite", "ro-crate", "croissant"):
            json.loads(made)
        elif form == "cff":
            agree(isinstance(yaml.safe_load(made), dict), "no mapping", made)
        elif form == "bibtex":
            agree(made.count("{") == made.count("}"), "braces", made)
            agree(made.count("@dataset{") == 1, "entries", made)
