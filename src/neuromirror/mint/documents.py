"""The plain files of a state's root: what makes it a DataLad dataset, and upstream's documents."""

from __future__ import annotations

import json
from collections.abc import Mapping

from neuromirror.mint.commits import SPEC
from neuromirror.mint.packs import BLOB, PackWriter
from neuromirror.mint.trees import FILE, FOLDER, write_tree
from neuromirror.model import SnapshotHeader, text

OWN_NAMES = (b".datalad", b".neuromirror", b".gitattributes")


def describe(
    header: SnapshotHeader,
    state: str,
    files: int,
    size: int,
    evidence: Mapping[str, int],
    escaped: Mapping[str, str],
) -> bytes:
    """``.neuromirror/dataset.json``: a pure function of the state, with no volatile field."""
    facts = header.facts
    content = {
        "mirror-spec": SPEC,
        "dataset": header.version.dataset.name,
        "source": header.version.dataset.source_uri,
        "version": header.version.upstream,
        "kind": header.version.kind.value,
        "state": state,
        "files": files,
        "bytes": size,
        "evidence": dict(evidence),
        "title": facts.title,
        "license": list(facts.license),
        "doi": facts.doi,
        "landing-page": facts.landing_page,
        "documents": [text(document.path) for document in header.documents],
        "exceptions": [
            {"path": text(one.path), "reason": one.reason, "detail": one.detail, "size": one.size}
            for one in header.exceptions
        ],
        "escaped": dict(escaped),
    }
    return json.dumps(content, indent=1, sort_keys=True).encode("ascii") + b"\n"


def root_entries(
    pack: PackWriter, header: SnapshotHeader, described: bytes
) -> dict[bytes, tuple[bytes, bytes]]:
    """Writes the plain files and gives their entries in the root: name → (mode, id)."""
    dataset = header.version.dataset
    config = b'[datalad "dataset"]\n\tid = %s\n' % dataset.dataset_id.encode()
    plain = [document.path for document in header.documents]
    entries = {
        b".datalad": (FOLDER, _folder(pack, b"config", config)),
        b".neuromirror": (FOLDER, _folder(pack, b"dataset.json", described)),
        b".gitattributes": (FILE, pack.add(BLOB, _attributes(plain))),
    }
    for document in header.documents:
        entries[document.path] = (FILE, pack.add(BLOB, document.content))
    return entries


def _folder(pack: PackWriter, name: bytes, content: bytes) -> bytes:
    return write_tree(pack, {name: (FILE, pack.add(BLOB, content))})


def _attributes(plain: list[bytes]) -> bytes:
    lines = [
        b"* annex.backend=SHA256E",
        b"**/.git* annex.largefiles=nothing",
        b"/.datalad/** annex.largefiles=nothing",
        b"/.neuromirror/** annex.largefiles=nothing",
        *(b"/%s annex.largefiles=nothing" % name for name in plain),
    ]
    return b"\n".join(lines) + b"\n"
