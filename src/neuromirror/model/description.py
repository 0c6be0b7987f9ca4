"""``.neuromirror/dataset.json``: what a commit says of itself, as readers of it may rely on."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from neuromirror.model.validation import (
    Count,
    DatasetId,
    DatasetName,
    InvalidDocumentError,
    StateDigestText,
    convert,
    is_git_path,
    parse_json,
)

DESCRIPTION_PATH: Final = ".neuromirror/dataset.json"


class _SubdatasetMember(msgspec.Struct, rename="kebab"):
    """A sub-dataset."""

    id: DatasetId
    local_id: str
    state: StateDigestText
    files: Count
    bytes: Count


class _InlineMember(msgspec.Struct):
    """A component that stands as a folder of files."""

    source: str
    checksum: str
    files: Count
    bytes: Count


class _ManifestOnlyMember(msgspec.Struct, frozen=True):
    """The files that have no place in git."""

    files: Count = 0
    bytes: Count = 0


class _Description(msgspec.Struct, kw_only=True, rename="kebab"):
    """The members that are read; those with a default came with later releases."""

    dataset: DatasetName
    source: str
    version: str
    kind: str
    state: StateDigestText
    files: Count
    bytes: Count
    evidence: dict[str, Count]
    exceptions: list[dict[str, Any]]
    title: str
    license: list[str]
    doi: str | None
    documents: list[str]
    escaped: dict[str, str] = {}
    form: Annotated[str, msgspec.Meta(pattern=r"^(?:files|manifest)\Z")] = "files"
    metadata: str = ""
    within: str = ""
    manifest_only: _ManifestOnlyMember = _ManifestOnlyMember()
    parts: dict[str, _SubdatasetMember] = {}
    inline: dict[str, _InlineMember] = {}
    landing_page: str | None = None
    attributes: dict[str, list[str]] = {}
    inputs: list[str] = []


def parse_description(content: bytes, document: str) -> dict[str, Any]:
    """Return the description in a file's content.

    Raises InvalidDocumentError, which names ``document``, for one that no mirror wrote: its
    members and
    their types are as :func:`neuromirror.mint.documents.describe` writes them.
    """
    found = parse_json(content, document)
    checked = convert(found, _Description, document)
    for member, paths in (("parts", checked.parts), ("documents", checked.documents)):
        for path in paths:
            if not is_git_path(path):
                raise InvalidDocumentError(
                    document, member, "paths that git checks out", repr(path)
                )
    description: dict[str, Any] = found
    return description
