"""The texts about a dataset in the documents of an archive, by field.

The documents are those that a version has in git: ``dandiset.yaml`` and the metadata of assets,
the sidecars of aind-data-schema, the records and key–value pairs of BOSS and ndstore, the
``info`` and ``provenance`` of a Precomputed layer, and a README. They are untrusted: a field may be
missing or have a wrong type, and is then ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct, field

from neuromirror.model.person_names import split_person_names, without_degrees
from neuromirror.model.plain_text import plain_text

LIST_FIELDS: Final = (
    *("keywords", "species", "anatomy", "techniques", "variables"),
    *("people", "institutions", "funders", "other"),
)
"""The fields with several values."""

_MAX_TEXT: Final = 20_000
"""Maximum number of characters of a description or README."""
_MAX_VALUE: Final = 300
_MAX_VALUES: Final = 500
"""Maximum number of values of a field."""
_MAX_DEPTH: Final = 12
_MAX_BYTES: Final = 8 << 20
"""Maximum size of a document that is parsed."""

_ROOT_DOCUMENTS: Final = frozenset(
    {
        *("dandiset.yaml", "provenance", "info"),
        *("data_description.json", "subject.json", "procedures.json", "acquisition.json"),
        *("session.json", "ephys_session.json", "ophys_session.json", "metadata.nd.json"),
    }
)
_README: Final = re.compile(r"readme(?:\.(?:md|txt|rst))?\Z", re.IGNORECASE)

_MEMBERS: Final[Mapping[str, str]] = {
    **{"keywords": "keywords", "tags": "keywords", "stimulus_name": "keywords"},
    **{"project_name": "keywords", "disorder": "keywords", "studyTarget": "keywords"},
    **{"species": "species", "organism": "species", "anatomy": "anatomy"},
    **{"targeted_structure": "anatomy", "targeted_structures": "anatomy"},
    **{"primary_targeted_structure": "anatomy", "other_targeted_structure": "anatomy"},
    **{"approach": "techniques", "measurementTechnique": "techniques", "modality": "techniques"},
    **{"modalities": "techniques", "experiment_type": "techniques", "platform": "techniques"},
    **{"variableMeasured": "variables", "dataStandard": "other", "sampleType": "other"},
    **{"strain": "other", "background_strain": "other", "genotype": "other"},
    **{"session_type": "other", "acquisition_type": "other", "institution": "institutions"},
    **{"experimenter_full_name": "people", "experimenters": "people", "investigators": "people"},
    **{"grant_number": "funders", "funder": "funders"},
}
"""Members of JSON documents at any depth, and the fields to which their names and texts belong."""

_KEYS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("keyword", "keywords", "tag", "tags", "project"), "keywords"),
    **dict.fromkeys(("species", "organism"), "species"),
    **dict.fromkeys(("region", "brainregion", "anatomy", "structure", "area", "tissue"), "anatomy"),
    **dict.fromkeys(
        ("modality", "technique", "method", "imagingmodality", "imagingmethod", "microscopy"),
        "techniques",
    ),
    **dict.fromkeys(
        ("investigator", "investigators", "pi", "author", "authors", "creator", "contact"), "people"
    ),
    **dict.fromkeys(("contributor", "contributors", "owner", "principalinvestigator"), "people"),
    **dict.fromkeys(("institution", "institutions", "affiliation", "lab", "group"), "institutions"),
    **dict.fromkeys(("funder", "funders", "funding", "grant", "grants", "award"), "funders"),
    **dict.fromkeys(("description", "abstract", "summary"), "description"),
}
"""Keys of key–value pairs, in lower case without separators."""


class ArchiveMetadata(Struct, frozen=True):
    """The texts about a dataset in its archive's documents.

    Attributes
    ----------
    description
        The description or abstract; empty if there is none.
    readme
        The text of a README in git.
    values
        The values of each field of :data:`LIST_FIELDS`, in the order in which the documents have
        them.
    """

    description: str = ""
    readme: str = ""
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def describing_documents(paths: Iterable[str]) -> list[str]:
    """Return the paths of the documents that :func:`read_archive_metadata` reads.

    Parameters
    ----------
    paths
        Paths of all documents of a version.

    Returns
    -------
    list of str
        Sorted; only the first shard of the metadata of assets, as a sample of all of them.
    """
    shards, found = [], []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder == ".dandi" and name.startswith("assets") and name.endswith(".jsonl"):
            shards.append(path)
        elif (
            path in _ROOT_DOCUMENTS
            or folder in (".boss", ".ndstore")
            or (not folder and _README.match(name))
        ):
            found.append(path)
    return sorted(found) + sorted(shards)[:1]


def read_archive_metadata(documents: Mapping[str, bytes]) -> ArchiveMetadata:
    """Read the metadata in some documents of a version.

    Parameters
    ----------
    documents
        Contents by path. Only the documents of :func:`describing_documents` are read.

    Returns
    -------
    ArchiveMetadata
        The texts, each on one line.
    """
    reader = _Reader()
    for path in describing_documents(documents):
        content = documents[path]
        if len(content) > _MAX_BYTES:
            continue
        if _README.match(path):
            reader.add_readme(content)
        elif path == ".boss/metadata.json":
            reader.add_scopes(_parse(content))
        elif path.startswith((".boss/", ".ndstore/")):
            reader.add_description(_parse(content).get("description"))
            if path.endswith("/channel.json"):
                reader.add_volume_type(_parse(content))
        elif path == "info":
            reader.add_volume_type(_parse(content))
        elif path.endswith(".jsonl"):
            if not reader.has("species"):  # the summary of a published version has them
                reader.add_lines(content)
        else:
            reader.add_object(_parse(content))
    return reader.result()


def _join_texts(texts: Sequence[str]) -> str:
    """Join texts to one; each but the last ends as a sentence does."""
    ended = [f"{text}." if text[-1:].isalnum() else text for text in texts[:-1]]
    return " ".join([*ended, *texts[-1:]])


class _Reader:
    def __init__(self) -> None:
        self._descriptions: dict[str, None] = {}
        self._readme = ""
        self._values: dict[str, dict[str, None]] = {name: {} for name in LIST_FIELDS}

    def result(self) -> ArchiveMetadata:
        return ArchiveMetadata(
            _join_texts(list(self._descriptions))[:_MAX_TEXT],
            self._readme,
            {name: tuple(values) for name, values in self._values.items()},
        )

    def has(self, name: str) -> bool:
        return bool(self._values[name])

    def add_readme(self, content: bytes) -> None:
        self._readme = self._readme or plain_text(content.decode("utf-8", "replace"))[:_MAX_TEXT]

    def add_description(self, value: Any) -> None:
        if text := plain_text(value):
            self._descriptions[text] = None

    def add(self, name: str, value: Any) -> None:
        known = self._values[name]
        text = plain_text(value)[:_MAX_VALUE]
        if text and text.casefold() not in ("none", "null", "unknown") and len(known) < _MAX_VALUES:
            known[text] = None

    def add_object(self, document: Mapping[str, Any]) -> None:
        """Add ``dandiset.yaml``, a sidecar of aind-data-schema, or a ``provenance``."""
        self.add_description(document.get("description"))
        self.add_description(document.get("data_summary"))
        for one in _mappings(document.get("contributor")):
            self._add_contributor(one)
        for one in _mappings(document.get("about")):
            is_anatomy = one.get("schemaKey") == "Anatomy"
            self.add("anatomy" if is_anatomy else "keywords", one.get("name"))
        self._collect(document)

    def _add_contributor(self, one: Mapping[str, Any]) -> None:
        roles = [role for role in _list(one.get("roleName")) if isinstance(role, str)]
        if "dcite:Funder" in roles or "dcite:Sponsor" in roles:
            self.add("funders", one.get("name"))
            self.add("funders", one.get("awardNumber"))
        elif one.get("schemaKey") == "Organization":
            self.add("institutions", one.get("name"))
        else:
            self.add("people", one.get("name"))
        for affiliation in _mappings(one.get("affiliation")):
            self.add("institutions", affiliation.get("name"))

    def add_volume_type(self, document: Mapping[str, Any]) -> None:
        """Add that the voxels of a volume are ids of objects, whatever the archive calls it."""
        kinds = {str(document.get(name)) for name in ("type", "channel_type")}
        if kinds & {"annotation", "segmentation"}:
            self.add("other", "segmentation (annotation)")

    def add_lines(self, content: bytes) -> None:
        """Add the metadata of assets, one per line."""
        for line in content.splitlines():
            self._collect(_parse(line))

    def add_scopes(self, document: Mapping[str, Any]) -> None:
        """Add the key–value pairs of a channel, its experiment and its collection."""
        for scope in ("channel", "experiment", "collection"):
            pairs = document.get(scope)
            for key, value in pairs.items() if isinstance(pairs, Mapping) else ():
                self._add_pair(str(key), value)

    def _add_pair(self, key: str, value: Any) -> None:
        name = _KEYS.get(re.sub(r"[^a-z]", "", key.casefold()), "other")
        text = plain_text(str(value) if isinstance(value, int | float) else value)
        if name == "description":
            self.add_description(text)
        elif name == "people":
            for person in split_person_names(text):
                self.add(name, without_degrees(person))
        elif name == "other":
            self.add(name, f"{key}: {text}" if text else "")
        else:
            for part in re.split(r"[;,]", text):
                self.add(name, part.strip())

    def _collect(self, value: Any, depth: int = 0) -> None:
        """Add the members of :data:`_MEMBERS` at any depth."""
        if depth > _MAX_DEPTH:
            return
        if isinstance(value, list):
            for one in value:
                self._collect(one, depth + 1)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                name = _MEMBERS.get(key)
                if name is not None:
                    for text in _names(inner):
                        self.add(name, text)
                if isinstance(inner, list | dict):
                    self._collect(inner, depth + 1)


def _names(value: Any) -> Iterator[str]:
    """Yield the texts of a value that is a text, an object with a name, or a list of these."""
    for one in _list(value):
        if isinstance(one, Mapping):
            yield from (
                text
                for key in ("name", "value", "abbreviation", "acronym")
                if isinstance(text := one.get(key), str)
            )
        elif isinstance(one, str):
            yield one


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    return (one for one in _list(value) if isinstance(one, Mapping))


def _parse(content: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
