"""Parse and validate ``.neuromirror/dataset.json``, the description of a dataset in a commit."""

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
    """A subdataset."""

    id: DatasetId
    local_id: str
    state: StateDigestText
    files: Count
    bytes: Count


class _InlineMember(msgspec.Struct):
    """An inline component: its files are in the dataset's tree."""

    source: str
    checksum: str
    files: Count
    bytes: Count


class _ManifestOnlyMember(msgspec.Struct, frozen=True):
    """Totals of the files that are in the manifest only."""

    files: Count = 0
    bytes: Count = 0


class _Description(msgspec.Struct, kw_only=True, rename="kebab"):
    """The members that are validated; those with a default are optional."""

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
    """Parse and validate a description.

    The members and their types are those that :func:`neuromirror.mint.documents.describe` writes.

    Parameters
    ----------
    content
        The content of the file.
    document
        The name of the file in error messages.

    Returns
    -------
    dict[str, Any]
        The description, as in ``.neuromirror/dataset.json``.

    Raises
    ------
    InvalidDocumentError
        If the description is invalid.
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
