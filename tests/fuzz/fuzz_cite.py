"""Targets: descriptions of commits, and citations made of them and of documents."""

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import yaml
from fuzz_core import SEEDS, check_agreement, fixed_seeds, target
from fuzz_git import scratch

from neuromirror.git import ObjectMissingError, ObjectReader
from neuromirror.lab.cite import CitationCollection, CitedState, cite, read_work
from neuromirror.lab.cite.works import NotCitableError
from neuromirror.lab.rebuild import CommitUnreadableError, MintedCommit
from neuromirror.model import NeuromirrorError

_DESCRIPTION_JSON = SEEDS["dataset"]
_DOCUMENTS: dict[str, Any] = {
    "dandiset.yaml": SEEDS["info"]["metadata"] | SEEDS["dandiset"],
    "data_description.json": SEEDS["description"],
    ".boss/metadata.json": {"channel": SEEDS["boss"]["metadata"]},
    ".ndstore/project.json": SEEDS["ndstore"]["project"],
    "provenance": SEEDS["layer"],
}
_FORMATS = ("text", "bibtex", "csl", "cff", "datacite", "ro-crate", "croissant")


def _seeds() -> list[bytes]:
    return [json.dumps({path: document}).encode() for path, document in _DOCUMENTS.items()]


@target("cite", NotCitableError, seeds=_seeds, kind="json")
def citation(data: bytes) -> None:
    """Upstream's documents, cited: whatever they hold, each format stays what it is."""
    try:
        held = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(held, dict):
        return
    described = {**_DESCRIPTION_JSON, "documents": list(held)}

    _cite(described, held)


@target(
    "dataset-json", NeuromirrorError, seeds=fixed_seeds(json.dumps(_DESCRIPTION_JSON)), kind="json"
)
def dataset_json(data: bytes) -> None:
    """``.neuromirror/dataset.json`` of a foreign commit."""

    class _DescriptionReader(ObjectReader):
        def read(self, name: str) -> bytes:
            return data

        def read_commit_tree(self, commit: str) -> bytes:
            return bytes(20)

    with patch("neuromirror.git.ObjectReader", _DescriptionReader):
        found = MintedCommit(scratch(), "0" * 40)
    check_agreement(found.manifest_only_files >= 0, found.manifest_only_files)
    with suppress(CommitUnreadableError):
        part = found._subdataset(b"a.zarr", "0" * 40)
        check_agreement(isinstance(part.files, int) and isinstance(part.state, str), part)
    _cite(data, {})


def _cite(described: Any, held: Mapping[str, Any]) -> None:
    """Cite a commit with this description and these documents in all formats."""

    class _DocumentReader(ObjectReader):
        def read(self, name: str) -> bytes:
            path = name.partition(":")[2]
            if path == ".neuromirror/dataset.json":
                return described if isinstance(described, bytes) else json.dumps(described).encode()
            if path in held:
                return json.dumps(held[path]).encode()
            raise ObjectMissingError(name)

    moment = datetime(2024, 1, 1, tzinfo=UTC)
    state = CitedState(scratch(), "dandi:000027", "0.1", "0" * 40, "1" * 40, moment)
    with patch("neuromirror.lab.cite.documents.ObjectReader", _DocumentReader):
        work = read_work(state)
    for form in _FORMATS:
        made = "".join(cite(CitationCollection((work,)), form, files=False))
        made.encode("utf-8")
        if form in ("csl", "datacite", "ro-crate", "croissant"):
            json.loads(made)
        elif form == "cff":
            check_agreement(isinstance(yaml.safe_load(made), dict), "no mapping", made)
        elif form == "bibtex":
            check_agreement(made.count("{") == made.count("}"), "braces", made)
            check_agreement(made.count("@dataset{") == 1, "entries", made)
