"""What is to be cited of a state, read from the documents in its git tree and nothing else.

So a citation is the same from a store, a clone, a bundle or a manifest, and no archive is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any, Final

from neuromirror.lab.cite import of_aind, of_dandi, of_volumes
from neuromirror.lab.cite.errors import NotCitable
from neuromirror.lab.cite.names import organisation, person
from neuromirror.lab.cite.plain import day, doi_of, licenses_of, plain, texts, web_address
from neuromirror.lab.cite.told import mapping, parse
from neuromirror.lab.cite.works import Funder, State, Told, Work
from neuromirror.mint import ObjectMissing, ObjectReader
from neuromirror.model import UNREADABLE, VersionKind, parse_description

_DESCRIBED: Final = ".neuromirror/dataset.json"
_EARLIER: Final = 1000
"""Earlier versions that are searched for a readable document."""
_KEYWORDS: Final = ("species", "modality", "project")
_READERS: Final = (
    (of_dandi.DOCUMENT, of_dandi.read),
    (of_aind.DOCUMENTS[0], of_aind.read),
    (of_aind.DOCUMENTS[1], of_aind.read),
    (of_volumes.BOSS, of_volumes.read_boss),
    (of_volumes.NDSTORE, of_volumes.read_ndstore),
    (of_volumes.PRECOMPUTED, of_volumes.read_precomputed),
)
"""Who reads which document; the first that is there tells what upstream it is."""


class _InGit:
    """The documents of a commit."""

    def __init__(self, reader: ObjectReader, commit: str) -> None:
        self._reader = reader
        self._commit = commit
        self.described: Mapping[str, Any] = self._read_described()
        attributes = mapping(self.described.get("attributes"))
        self._unreadable = frozenset(texts(attributes.get(UNREADABLE)))
        self._known = frozenset(texts(self.described.get("documents"))) | self._unreadable

    def has(self, path: str) -> bool:
        """Whether upstream has this document."""
        return path in self._known

    def parsed(self, path: str) -> Mapping[str, Any]:
        """Return the JSON object in a document; empty if there is none.

        Of a document that cannot be read in this version it is the last one that could be.
        """
        if path in self._unreadable:
            return self._last_readable(path)
        return parse(self._reader.read(f"{self._commit}:{path}")) if self.has(path) else {}

    def _last_readable(self, path: str) -> Mapping[str, Any]:
        for generation in range(1, _EARLIER):
            earlier = f"{self._commit}~{generation}"
            try:
                self._reader.read(earlier)
            except ObjectMissing:
                break
            with suppress(ObjectMissing):
                if found := parse(self._reader.read(f"{earlier}:{path}")):
                    return found
        return {}

    def _read_described(self) -> Mapping[str, Any]:
        described = None
        try:
            described = parse_description(
                self._reader.read(f"{self._commit}:{_DESCRIBED}"), _DESCRIBED
            )
            fields = ("dataset", "source", "version", "kind", "state", "title", "files", "bytes")
            told = {field: described[field] for field in fields}
            assert isinstance(told["files"], int)
        except (ObjectMissing, ValueError, KeyError, TypeError, AssertionError) as error:
            raise NotCitable(
                f"commit {self._commit} was not made by neuromirror: its {_DESCRIBED} is missing "
                "or cannot be read"
            ) from error
        return mapping(described)


def read_work(state: State) -> Work:
    """What is cited of a state; raises NotCitable for a commit that neuromirror did not make."""
    with ObjectReader(state.git_dir) as reader:
        documents = _InGit(reader, state.commit)
        read = next((read for path, read in _READERS if documents.has(path)), None)
        told = Told() if read is None else read(documents)
    return _merged(state, documents.described, told)


def _merged(state: State, described: Mapping[str, Any], told: Told) -> Work:
    """What upstream's own document says stands before what the mirror gathered."""
    attributes = mapping(described.get("attributes"))
    source = plain(described["source"])
    people = map(person, texts(attributes.get("investigator", [])))
    funders = map(organisation, texts(attributes.get("funder", [])))
    created = texts(attributes.get("created", []))
    subjects = (word for name in _KEYWORDS for word in texts(attributes.get(name, [])))
    parts = mapping(described.get("parts"))
    told = replace(
        told,
        authors=told.authors or tuple(one for one in people if one is not None),
        created=told.created or (day(created[0]) if created else None),
        address=told.address or web_address(described.get("landing-page")) or source,
        licenses=told.licenses or licenses_of(described.get("license")),
        keywords=_each_once((*told.keywords, *subjects)),
        funders=told.funders or tuple(Funder(one) for one in funders if one is not None),
    )
    return Work(
        **{one.name: getattr(told, one.name) for one in fields(told)},
        state=state,
        title=plain(described["title"]) or state.name,
        upstream=plain(described["version"]),
        is_published=described["kind"] == VersionKind.PUBLISHED.value,
        digest=plain(described["state"]),
        source=source,
        files=state.files if state.paths else described["files"],
        bytes=state.bytes if state.paths else described["bytes"],
        modified=None if state.time is None else state.time.date(),
        doi=doi_of(described.get("doi")),
        inputs=texts(described.get("inputs", [])),
        within=plain(described.get("within")),
        only_files=int(mapping(described.get("manifest-only")).get("files", 0)),
        left_out=len(described.get("exceptions") or ()),
        parts=tuple(
            (path, int(one["files"]), int(one["bytes"])) for path, one in sorted(parts.items())
        ),
    )


def _each_once(words: tuple[str, ...]) -> tuple[str, ...]:
    """Words without regard to case, in their order."""
    found: dict[str, str] = {}
    for word in words:
        found.setdefault(word.casefold(), word)
    return tuple(found.values())
