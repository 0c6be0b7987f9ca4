"""Write the files that are in git itself: DataLad's, our own, and upstream's documents."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from neuromirror.annex import find_pointer_key, fits_path_limits, git_path
from neuromirror.git import (
    BLOB,
    REGULAR_FILE_MODE,
    TREE_MODE,
    PackWriter,
    Submodule,
    gitmodules_content,
    write_tree,
)
from neuromirror.mint.commits import MINT_SPEC
from neuromirror.mint.state_counts import StateCounts
from neuromirror.model import (
    CHECKED_BY_VISIT,
    Document,
    SnapshotHeader,
    metadata_digest,
    path_to_text,
)

OWN_NAMES = (b".datalad", b".neuromirror", b".gitattributes", b".gitmodules")

_ATTRIBUTES = b"""\
* annex.backend=SHA256E
**/.git* annex.largefiles=nothing
/.boss/** annex.largefiles=nothing
/.dandi/** annex.largefiles=nothing
/.datalad/** annex.largefiles=nothing
/.ndstore/** annex.largefiles=nothing
/.neuromirror/** annex.largefiles=nothing
/.precomputed/** annex.largefiles=nothing
/dandiset.yaml annex.largefiles=nothing
/*.json annex.largefiles=(largerthan=4MiB)
/original_metadata/** annex.largefiles=(largerthan=4MiB)
info annex.largefiles=(largerthan=4MiB)
provenance annex.largefiles=(largerthan=4MiB)
zarr.json annex.largefiles=(largerthan=4MiB)
"""
"""One rule per kind of document, the same in every dataset and state.

Because the file never changes, a lab can add its own rules (``datalad create -c text2git``) and
still merge later states. Documents larger than 4 MiB are annexed.
"""


def sorted_documents(header: SnapshotHeader) -> list[Document]:
    """Return upstream's documents sorted by path.

    Raises ValueError for a duplicate path, and for one that would have to be escaped in git.
    """
    documents = sorted(header.documents, key=lambda one: one.path)
    last = b""
    for one in documents:
        if one.path == last or not fits_path_limits(one.path) or git_path(one.path) != one.path:
            raise ValueError(f"duplicate or invalid path of a document: {one.path!r}")
        last = one.path
    return documents


def dataset_json(
    header: SnapshotHeader,
    documents: Sequence[Document],
    within: str,
    state: str,
    sums: StateCounts,
) -> bytes:
    """Return the content of ``.neuromirror/dataset.json``, which describes a version.

    It depends on the state only, so that equal states give equal bytes.

    Parameters
    ----------
    header, documents
        The state, and upstream's documents sorted by path.
    within
        The local id of the dataset that has this one as a component; empty for a dataset of its
        own.
    state
        The state digest.
    sums
        The counts of the state's files.
    """
    facts = header.facts
    attributes: dict[str, list[str]] = {}
    for name, value in sorted(facts.attributes):
        if name != CHECKED_BY_VISIT:
            attributes.setdefault(name, []).append(value)
    content = {
        "mirror-spec": MINT_SPEC,
        "dataset": header.version.dataset.name,
        "source": header.version.dataset.source_uri,
        "within": within,
        "version": header.version.upstream,
        "kind": header.version.kind.value,
        "form": header.form,
        "state": state,
        "metadata": metadata_digest(documents),
        "files": sums.files,
        "bytes": sums.bytes,
        "manifest-only": {"files": sums.manifest_only_files, "bytes": sums.manifest_only_bytes},
        "parts": sums.subdatasets,
        "inline": {
            path_to_text(one.path): {
                "source": one.source_uri,
                "checksum": one.checksum,
                "files": one.files,
                "bytes": one.bytes,
            }
            for one in header.inline
        },
        "evidence": sums.evidence,
        "title": facts.title,
        "license": list(facts.license),
        "doi": facts.doi,
        "landing-page": facts.landing_page,
        "attributes": attributes,
        "inputs": sorted(facts.inputs),
        "documents": [path_to_text(document.path) for document in documents],
        "exceptions": [
            {
                "path": path_to_text(one.path),
                "reason": one.reason,
                "detail": one.detail,
                "size": one.size,
            }
            for one in header.exceptions
        ],
        "escaped": sums.escaped_paths,
    }
    return json.dumps(content, indent=1, sort_keys=True).encode("ascii") + b"\n"


def write_root_entries(
    pack: PackWriter, header: SnapshotHeader, description: bytes, sums: StateCounts
) -> dict[bytes, tuple[bytes, bytes]]:
    """Write the files at the top of every dataset, such as ``.datalad``; return their tree entries.

    Parameters
    ----------
    pack
        Where the objects are written.
    header
        The header of the state.
    description
        The content of ``.neuromirror/dataset.json``.
    sums
        The counts of the state's files.

    Returns
    -------
    dict[bytes, tuple[bytes, bytes]]
        Name → (mode, 20-byte id).
    """
    config = b'[datalad "dataset"]\n\tid = %s\n' % header.version.dataset.dataset_id.encode()
    files = {b".gitattributes": _ATTRIBUTES}
    if sums.subdatasets:
        files[b".gitmodules"] = _gitmodules(
            {path: part["id"] for path, part in sums.subdatasets.items()}
        )
    entries = {
        b".datalad": (TREE_MODE, _write_folder(pack, b"config", config)),
        b".neuromirror": (TREE_MODE, _write_folder(pack, b"dataset.json", description)),
    }
    for name, content in files.items():
        entries[name] = (REGULAR_FILE_MODE, pack.add(BLOB, content))
    return entries


def ria_url(dataset_id: str) -> str:
    """Return the URL of a dataset in the store, relative to that of another one.

    It is valid from the other's path ``<id[:3]>/<id[3:]>`` as well as from ``alias/<name>``.

    Parameters
    ----------
    dataset_id
        The UUID of the other dataset.

    Returns
    -------
    str
        The relative URL ``../../<id[:3]>/<id[3:]>``.
    """
    return f"../../{dataset_id[:3]}/{dataset_id[3:]}"


def _write_folder(pack: PackWriter, name: bytes, content: bytes) -> bytes:
    return write_tree(pack, {name: (REGULAR_FILE_MODE, pack.add(BLOB, content))})


def _gitmodules(subdatasets: Mapping[str, str]) -> bytes:
    if any(path.startswith("-") for path in subdatasets):
        raise ValueError("git rejects a submodule whose path starts with a dash")
    content = gitmodules_content(
        Submodule(path, ria_url(dataset_id), dataset_id) for path, dataset_id in subdatasets.items()
    )
    # git-annex would take a first line with such a path for a pointer
    return content if find_pointer_key(content) is None else b"\n" + content
