"""Read the citation metadata of a state from the documents in its git tree alone.

A citation is therefore the same from a store, a clone, a bundle or a manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from msgspec.structs import asdict, replace

from neuromirror.git import ObjectMissingError, ObjectReader
from neuromirror.lab.cite import aind_documents, dandi_documents, volume_documents
from neuromirror.lab.cite.errors import NotCitableError
from neuromirror.lab.cite.person_names import make_organisation, make_person
from neuromirror.lab.cite.text_values import day, doi_of, licenses_of, plain_texts, web_address
from neuromirror.lab.cite.upstream_documents import mapping, parse_object
from neuromirror.lab.cite.works import CitedState, CitedWork, Funder, UpstreamMetadata
from neuromirror.model import UNREADABLE, VersionKind, parse_description
from neuromirror.model.plain_text import plain_text

_DESCRIPTION: Final = ".neuromirror/dataset.json"
_MAX_EARLIER: Final = 1000
"""Maximum number of earlier versions that are searched for a readable document."""
_KEYWORDS: Final = ("species", "modality", "project")
_READERS: Final = (
    (dandi_documents.DOCUMENT, dandi_documents.read),
    (aind_documents.DOCUMENTS[0], aind_documents.read),
    (aind_documents.DOCUMENTS[1], aind_documents.read),
    (volume_documents.BOSS, volume_documents.read_boss),
    (volume_documents.NDSTORE, volume_documents.read_ndstore),
    (volume_documents.PRECOMPUTED, volume_documents.read_precomputed),
)
"""The reader of each document; the first existing document determines the kind of upstream."""


class _CommitDocuments:
    """The documents of a commit."""

    def __init__(self, reader: ObjectReader, commit: str) -> None:
        self._reader = reader
        self._commit = commit
        self.description: Mapping[str, Any] = self._read_description()
        attributes = mapping(self.description.get("attributes"))
        self._unreadable = frozenset(plain_texts(attributes.get(UNREADABLE)))
        self._known = frozenset(plain_texts(self.description.get("documents"))) | self._unreadable

    def has(self, path: str) -> bool:
        """Return whether upstream has this document."""
        return path in self._known

    def parsed(self, path: str) -> Mapping[str, Any]:
        """Return the JSON object in a document; empty if missing.

        A document that is unreadable in this version is read from the last readable one.
        """
        if path in self._unreadable:
            return self._last_readable(path)
        return parse_object(self._reader.read(f"{self._commit}:{path}")) if self.has(path) else {}

    def _last_readable(self, path: str) -> Mapping[str, Any]:
        for generation in range(1, _MAX_EARLIER):
            earlier = f"{self._commit}~{generation}"
            try:
                self._reader.read(earlier)
            except ObjectMissingError:
                break
            with suppress(ObjectMissingError):
                if found := parse_object(self._reader.read(f"{earlier}:{path}")):
                    return found
        return {}

    def _read_description(self) -> Mapping[str, Any]:
        description = None
        try:
            description = parse_description(
                self._reader.read(f"{self._commit}:{_DESCRIPTION}"), _DESCRIPTION
            )
            fields = ("dataset", "source", "version", "kind", "state", "title", "files", "bytes")
            required = {field: description[field] for field in fields}
            assert isinstance(required["files"], int)
        except (ObjectMissingError, ValueError, KeyError, TypeError, AssertionError) as error:
            raise NotCitableError(
                f"commit {self._commit} was not created by neuromirror: its {_DESCRIPTION} is "
                f"missing "
                "or invalid"
            ) from error
        return mapping(description)


def read_work(state: CitedState) -> CitedWork:
    """Return the citation metadata of a state.

    Parameters
    ----------
    state
        The state, from :func:`state_of_version` or a similar function.

    Returns
    -------
    CitedWork
        The work, with the metadata in the committed documents.

    Raises
    ------
    NotCitableError
        The commit was not created by neuromirror.
    """
    with ObjectReader(state.git_dir) as reader:
        documents = _CommitDocuments(reader, state.commit)
        read = next((read for path, read in _READERS if documents.has(path)), None)
        metadata = UpstreamMetadata() if read is None else read(documents)
    return _merge(state, documents.description, metadata)


def _merge(
    state: CitedState, description: Mapping[str, Any], metadata: UpstreamMetadata
) -> CitedWork:
    """Merge the metadata of upstream, which takes precedence, with the fields of the mirror."""
    attributes = mapping(description.get("attributes"))
    source = plain_text(description["source"])
    people = map(make_person, plain_texts(attributes.get("investigator", [])))
    funders = map(make_organisation, plain_texts(attributes.get("funder", [])))
    created = plain_texts(attributes.get("created", []))
    subjects = (keyword for name in _KEYWORDS for keyword in plain_texts(attributes.get(name, [])))
    subdatasets = mapping(description.get("parts"))
    metadata = replace(
        metadata,
        authors=metadata.authors or tuple(one for one in people if one is not None),
        created=metadata.created or (day(created[0]) if created else None),
        address=metadata.address or web_address(description.get("landing-page")) or source,
        licenses=metadata.licenses or licenses_of(description.get("license")),
        keywords=_distinct((*metadata.keywords, *subjects)),
        funders=metadata.funders or tuple(Funder(one) for one in funders if one is not None),
    )
    return CitedWork(
        **asdict(metadata),
        state=state,
        title=plain_text(description["title"]) or state.name,
        upstream=plain_text(description["version"]),
        is_published=description["kind"] == VersionKind.PUBLISHED.value,
        digest=plain_text(description["state"]),
        source=source,
        files=state.files if state.paths else description["files"],
        bytes=state.bytes if state.paths else description["bytes"],
        modified=None if state.time is None else state.time.date(),
        doi=doi_of(description.get("doi")),
        inputs=plain_texts(description.get("inputs", [])),
        within=plain_text(description.get("within")),
        manifest_only_files=int(mapping(description.get("manifest-only")).get("files", 0)),
        left_out=len(description.get("exceptions") or ()),
        subdatasets=tuple(
            (path, int(one["files"]), int(one["bytes"]))
            for path, one in sorted(subdatasets.items())
        ),
    )


def _distinct(keywords: tuple[str, ...]) -> tuple[str, ...]:
    """Return keywords in order, without duplicates that differ in case only."""
    found: dict[str, str] = {}
    for keyword in keywords:
        found.setdefault(keyword.casefold(), keyword)
    return tuple(found.values())
