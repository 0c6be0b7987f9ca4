"""Metadata of a dataset as its archive states it: persons, licenses, plain text.

The texts about a dataset in the documents of an archive, by field.

The documents are those that a version has in git: ``dandiset.yaml`` and the metadata of assets,
the sidecars of aind-data-schema, the records and key–value pairs of BOSS and ndstore, the
``info`` and ``provenance`` of a Precomputed layer, and a README. They are untrusted: a field may be
missing or have a wrong type, and is then ignored.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct, field

GENERATIONS: Final = frozenset({"jr", "sr", "ii", "iii", "iv"})
"""Generational suffixes of a name, without dots, in lower case."""

DEGREES: Final = frozenset(
    {
        *("phd", "dphil", "md", "dsc", "msc", "mphil", "mph", "mba", "bsc", "edd", "psyd"),
        *("dvm", "vmd", "dds", "dmd", "pharmd", "jd", "rn", "facs", "frcp"),
    }
)
"""Academic degrees after a name, without dots, in lower case, except those that are also names."""

# The look-behind prevents quadratic time on long white space in untrusted texts.
_SEPARATOR: Final = re.compile(r"(?:(?<!\s)\s+)?[;&]\s*|(?<!\s)\s+(?:and|und|et)\s+")


def is_degree(text: str) -> bool:
    """Return whether a text is an academic degree: ``PhD``, ``Ph.D.``, ``M.D.``."""
    return _letters(text) in DEGREES


def is_generation(text: str) -> bool:
    """Return whether a text is a generational suffix: ``Jr.``, ``III``."""
    return _letters(text) in GENERATIONS


def split_person_names(text: str) -> list[str]:
    """Split a text into the names of people in it.

    Semicolons, ``and`` and ``&`` separate people. A comma separates people, except before a degree
    or a generational suffix (``José Núñez, PhD``) and between family and given name
    (``Doe, Jane``).

    Parameters
    ----------
    text
        One name or several, as written upstream.

    Returns
    -------
    list of str
        The names, as written; empty if there are none.
    """
    return [name for part in _SEPARATOR.split(text) for name in _split_at_commas(part)]


def _split_at_commas(text: str) -> list[str]:
    names: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if names and (is_degree(part) or is_generation(part)):
            names[-1] += f", {part}"
        else:
            names.append(part)
    pairs = list(zip(names[::2], names[1::2], strict=False))
    if len(names) % 2 == 0 and all(_is_inverted(family, given) for family, given in pairs):
        return [f"{family}, {given}" for family, given in pairs]
    return names


def split_list(text: str) -> list[str]:
    """Return the names in a text that lists them with semicolons or commas."""
    return [name for part in re.split("[;,]", text) if (name := part.strip())]


def without_degrees(name: str) -> str:
    """Return one person's name without the academic degrees after it."""
    parts = [part.strip() for part in name.split(",")]
    return ", ".join(part for at, part in enumerate(parts) if not at or not is_degree(part))


def _is_inverted(family: str, given: str) -> bool:
    """Return whether two parts are the family and the given names of one person."""
    return not (_is_full(family) and _is_full(given))


def _is_full(name: str) -> bool:
    """Return whether a name has more than one word and does not end with an initial."""
    tokens = [token for token in name.partition(",")[0].split() if not token[:1].islower()]
    return len(tokens) > 1 and len(tokens[-1].rstrip(".")) > 1


def _letters(text: str) -> str:
    return text.replace(".", "").replace(" ", "").casefold()


_TAG: Final = re.compile(
    r"</?(?:a|abbr|b|big|blockquote|br|cite|code|dd|div|dl|dt|em|font|h[1-6]|hr|i|img|li|ol|p|pre"
    r"|q|s|script|small|span|strike|strong|style|sub|sup|table|tbody|td|th|thead|tr|tt|u|ul"
    r"|jats:[a-z]+|mml:[a-z]+)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_BLOCK: Final = re.compile(
    r"</?(?:blockquote|br|d[dlt]|div|h[1-6]|hr|li|ol|p|pre|t[dhr]|table|ul)\b", re.IGNORECASE
)
_HIDDEN: Final = re.compile(
    r"<(script|style)\b[^<>]*>.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL
)
# control characters, changes of the writing direction, and noncharacters
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\ufeff\ufff9-\ufffb\ufffe\uffff]"
)


def plain_text(value: Any) -> str:
    """Return a text on one line without HTML and control characters; empty for other types."""
    if not isinstance(value, str):
        return ""
    text = _HIDDEN.sub(" ", value.encode("utf-8", "replace").decode("utf-8"))
    text = _TAG.sub(lambda found: " " if _BLOCK.match(found.group()) else "", text)
    text = _UNPRINTABLE.sub("", html.unescape(text))
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


SPDX: Final = (
    *(f"CC-BY-{version}" for version in ("1.0", "2.0", "2.5", "3.0", "4.0")),
    *(
        f"CC-BY-{terms}-{version}"
        for terms in ("NC", "NC-ND", "NC-SA", "ND", "SA")
        for version in ("1.0", "2.0", "2.5", "3.0", "4.0")
    ),
    *("CC0-1.0", "CC-PDDC", "ODC-By-1.0", "ODbL-1.0", "PDDL-1.0", "CDLA-Permissive-1.0"),
    *("CDLA-Sharing-1.0", "OGL-UK-3.0", "etalab-2.0", "MIT", "Apache-2.0", "BSD-2-Clause"),
    *("BSD-3-Clause", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later"),
    *("LGPL-3.0-only", "LGPL-3.0-or-later", "Unlicense"),
)
"""SPDX ids that are recognised in any spelling."""

_SPELLINGS: Final = {
    **{re.sub(r"[^a-z0-9.]", "", one.casefold()): one for one in SPDX},
    **{"cc0": "CC0-1.0", "odcby": "ODC-By-1.0", "odbl": "ODbL-1.0", "pddl": "PDDL-1.0"},
}


def without_spdx_prefix(name: str) -> str:
    """Return the name of a license without ``spdx:``."""
    return name[5:].strip() if name[:5].casefold() == "spdx:" else name


def spdx_id(name: str) -> str | None:
    """Return the SPDX id in a name: ``spdx:CC-BY-4.0``, ``CC BY 4.0``; None for other licenses."""
    plain = without_spdx_prefix(name)
    known = _SPELLINGS.get(re.sub(r"[^a-z0-9.]", "", plain.casefold()))
    if known is None and plain != name and re.fullmatch(r"[A-Za-z0-9.+-]+", plain):
        return plain
    return known


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

_LISTS: Final = frozenset({"modality", "modalities", "experiment_type"})
"""Those members whose texts may list several names: ``ecephys; behavior``."""

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
        for mapping in _mappings(document.get("contributor")):
            self._add_contributor(mapping)
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
            for part in split_list(text):
                self.add(name, part)

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
                        for part in split_list(text) if key in _LISTS else (text,):
                            self.add(name, part)
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
