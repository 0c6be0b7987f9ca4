"""Documents of a version in git, its counts and its commit message."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

from msgspec import Struct, field

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
from neuromirror.model import (
    CHECKED_BY_VISIT,
    Document,
    FileTotals,
    SnapshotEntry,
    SnapshotHeader,
    Subdataset,
    is_in_git,
    metadata_digest,
    path_to_text,
)

MINT_SPEC = 1


def commit_bytes(
    mirror: str, tree: bytes, parent: str | None, timestamp: int, message: str
) -> bytes:
    """Return the content of a commit object.

    Parameters
    ----------
    mirror
        The mirror's name, in author and committer.
    tree
        The tree's 20-byte id.
    parent
        The parent's id in hex; None for a root commit.
    timestamp
        Author and committer date, in whole seconds since the epoch; the time zone is +0000.
    message
        Subject, body and trailers.

    Returns
    -------
    bytes
        The content, without the header of a git object.
    """
    identity = f"neuromirror <{mirror}@neuromirror.invalid> {timestamp} +0000"
    lines = [f"tree {tree.hex()}"]
    if parent is not None:
        lines.append(f"parent {parent}")
    lines += [f"author {identity}", f"committer {identity}", "", message]
    return "\n".join(lines).encode()


def version_message(header: SnapshotHeader, label: str, state: str, files: int, size: int) -> str:
    """Return the message of a state's commit: subject and trailers.

    Parameters
    ----------
    header
        The version's header.
    label, state
        The label and the state digest.
    files, size
        Number and size in bytes of the files.
    """
    version = header.version
    return (
        f"{version.dataset.name} {label}\n\n"
        f"Mirror-Spec: {MINT_SPEC}\n"
        f"Source: {version.dataset.source_uri}\n"
        f"Version: {version.upstream}\n"
        f"State: {state}\n"
        f"Files: {files}\n"
        f"Bytes: {size}\n"
    )


def annex_message(header: SnapshotHeader, label: str) -> str:
    """Return the message of the commit on the git-annex branch that belongs to a version."""
    return f"{header.version.dataset.name} {label}\n\nMirror-Spec: {MINT_SPEC}\n"


class StateCounts(Struct):
    """Counts of a state's files, without those in subdatasets.

    Attributes
    ----------
    form
        The dataset's form, ``files`` or ``manifest``.
    files, bytes
        Number and size of all files, in git or not.
    evidence
        Number of files by evidence.
    escaped_paths
        Upstream's path by path in git, where the two differ.
    subdatasets
        The JSON objects of the subdatasets by path in git.
    manifest_only_files, manifest_only_bytes
        Number and size of the files that are in the manifest but not in git.
    """

    form: str
    files: int = 0
    bytes: int = 0
    evidence: dict[str, int] = field(default_factory=dict)
    escaped_paths: dict[str, str] = field(default_factory=dict)
    subdatasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    manifest_only_files: int = 0
    manifest_only_bytes: int = 0

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Self:
        """Return the counts in a state's parsed ``.neuromirror/dataset.json``."""
        # the first commits of spec 1 lack these fields
        only = description.get("manifest-only", {"files": 0, "bytes": 0})
        return cls(
            form=description.get("form", "files"),
            files=description["files"],
            bytes=description["bytes"],
            evidence=description["evidence"],
            escaped_paths=description["escaped"],
            subdatasets=description.get("parts", {}),
            manifest_only_files=only["files"],
            manifest_only_bytes=only["bytes"],
        )

    def count(self, placed: SnapshotEntry, sign: int) -> None:
        """Count a file or subdataset: ``sign`` is 1 to add it, -1 to remove it."""
        record, path, part = placed.record, placed.git_path, placed.subdataset
        if part is not None:
            if sign > 0:
                self.subdatasets[path.decode()] = _subdataset_json(part)
            else:
                del self.subdatasets[path.decode()]
        else:
            size = sign * (record.size or 0)
            self.files += sign
            self.bytes += size
            evidence = record.evidence.value
            left = self.evidence.get(evidence, 0) + sign
            if left:
                self.evidence[evidence] = left
            else:
                del self.evidence[evidence]
            if self.form != "files" and not is_in_git(placed, self.form):
                self.manifest_only_files += sign
                self.manifest_only_bytes += size
                return
        if record.path != path:
            if sign > 0:
                self.escaped_paths[path.decode()] = path_to_text(record.path)
            else:
                del self.escaped_paths[path.decode()]

    @property
    def manifest_only(self) -> FileTotals:
        """Number and size of the files that are not in git."""
        return FileTotals(self.manifest_only_files, self.manifest_only_bytes)

    @property
    def in_subdatasets(self) -> FileTotals:
        """Number and size of the files in the subdatasets."""
        subdatasets = self.subdatasets.values()
        return FileTotals(
            sum(one["files"] for one in subdatasets), sum(one["bytes"] for one in subdatasets)
        )


def _subdataset_json(part: Subdataset) -> dict[str, Any]:
    return {
        "id": part.dataset_id,
        "local-id": part.local_id,
        "state": part.state,
        "files": part.files,
        "bytes": part.bytes,
    }


OWN_NAMES = (b".datalad", b".neuromirror", b".gitattributes", b".gitmodules")

_ATTRIBUTES = b"""\
* -text
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

The first one keeps git from converting line endings, whatever it is told elsewhere.
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
        "inline": {one.pop("path"): one for one in inline_components_json(header)},
        "evidence": sums.evidence,
        "title": facts.title,
        "license": list(facts.license),
        "doi": facts.doi,
        "landing-page": facts.landing_page,
        "attributes": attributes,
        "inputs": sorted(facts.inputs),
        "documents": [path_to_text(document.path) for document in documents],
        "exceptions": exceptions_json(header),
        "escaped": sums.escaped_paths,
    }
    return json.dumps(content, indent=1, sort_keys=True).encode("ascii") + b"\n"


def exceptions_json(header: SnapshotHeader) -> list[dict[str, Any]]:
    """Return the entries that are listed upstream but not in the version, as JSON objects."""
    return [
        {
            "path": path_to_text(exception.path),
            "reason": exception.reason,
            "detail": exception.detail,
            "size": exception.size,
        }
        for exception in header.exceptions
    ]


def inline_components_json(header: SnapshotHeader) -> list[dict[str, Any]]:
    """Return the components whose files are the version's own, as JSON objects."""
    return [
        {
            "path": path_to_text(one.path),
            "source": one.source_uri,
            "checksum": one.checksum,
            "files": one.files,
            "bytes": one.bytes,
        }
        for one in header.inline
    ]


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
