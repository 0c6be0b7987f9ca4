"""Read the citation metadata of a state from the documents in its git tree alone.

A citation is therefore the same from a store, a clone, a bundle or a manifest.

``dandiset.yaml`` follows the rules of the archive (Dandiset of dandischema, all releases): those
contributors are cited that have ``includeInCitation``, and the publisher is the instance in the
prefix of the identifier (``DANDI:000027``). An AIND asset has ``data_description.json``, or its
copy in ``metadata.nd.json`` (all versions of aind-data-schema). The formats of volumes have no
fields for authors or dates; BOSS stores keys and values of users, of which some are recognised by
name. The account that created a channel is not cited as an author.

The documents are untrusted: a field that is missing or has a wrong type is ignored. Names of people
are split into family and given names where the result is certain: ``van der Berg, Anna`` and ``Anna
van der Berg`` are equal, as in BibTeX. A name without a comma is split only if it has two words, or
if the words between the first and the last are particles or initials; ``Ana García Márquez`` is
ambiguous.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from typing import Any, Final, TypeVar

from msgspec.structs import asdict, replace

from neuromirror.git import ObjectMissingError, ObjectReader
from neuromirror.lab.cite.works import (
    Agent,
    CitedState,
    CitedWork,
    Funder,
    License,
    NotCitableError,
    UpstreamMetadata,
)
from neuromirror.model import DESCRIPTION_PATH, UNREADABLE, VersionKind, parse_description
from neuromirror.model.archive_metadata import (
    is_generation,
    plain_text,
    spdx_id,
    split_person_names,
    without_degrees,
    without_spdx_prefix,
)

_Value = TypeVar("_Value")
_MAX_MEMBERS: Final = 10_000
"""Maximum number of list members that are read: twice the longest known list of authors."""
_MAX_DOCUMENT_BYTES: Final = 8 << 20
"""Maximum size of a document in bytes; for a larger one, the fields of the mirror are cited."""
_DOI: Final = re.compile(r"(?i)(?:https?://(?:dx\.)?doi\.org/|doi:\s*)?(10\.[0-9]{4,9}/\S+)\Z")
_DAY: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]|\Z)")
_INITIALS: Final = re.compile(r"(?:[^\W\d_]\.?-?){1,3}\Z")
_ORCID: Final = re.compile(r"(?:https?://(?:www\.)?orcid\.org/)?((?:[0-9]{4}-){3}[0-9]{3}[0-9X])\Z")
_ROR: Final = re.compile(r"(?:https?://(?:www\.)?ror\.org/)?(0[a-hj-km-np-tv-z0-9]{6}[0-9]{2})\Z")
_FAMILY_FIRST: Final = ("CJK UNIFIED", "HANGUL", "HIRAGANA", "KATAKANA")
_AMBIGUOUS: Final = ("", "", "", "")


def parse_object(content: bytes) -> Mapping[str, Any]:
    """Parse a JSON object; empty if it is invalid or too large."""
    with suppress(ValueError, RecursionError):
        return mapping(json.loads(content) if len(content) <= _MAX_DOCUMENT_BYTES else None)
    return {}


def mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a JSON object (``dict``), else ``{}``."""
    return value if isinstance(value, dict) else {}


def members(value: Any) -> list[Any]:
    """Return the first members of a list; another value is its own only member."""
    return value[:_MAX_MEMBERS] if isinstance(value, list) else [value]


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return the JSON objects among the first members of a list."""
    listed = members(value) if isinstance(value, list) else []
    return [member for member in listed if isinstance(member, dict)]


def plain_texts(value: Any) -> tuple[str, ...]:
    """Return a text or the texts of a list, without markup and duplicates."""
    return tuple(dict.fromkeys(filter(None, map(plain_text, members(value)))))


def web_address(value: Any) -> str:
    """Return an http or https URL, else an empty text."""
    text = plain_text(value)
    return text if text.startswith(("http://", "https://")) and " " not in text else ""


def doi_of(value: Any) -> str | None:
    """Return the bare DOI in a DOI, ``doi:…`` or a doi.org URL, or None."""
    return match[1] if (match := _DOI.match(plain_text(value))) else None


def day(value: Any) -> date | None:
    """Return the day of an ISO 8601 date or time; None for any other value."""
    with suppress(ValueError):
        if isinstance(value, str) and (match := _DAY.match(value)):
            return date(*map(int, match.groups()))
    return None


def license_of(value: Any) -> License | None:
    """Return the license that a text names; None without a text.

    The text may be ``spdx:CC-BY-4.0``, ``CC BY 4.0``, a URL or a sentence.
    """
    name = plain_text(value)
    if spdx := spdx_id(name):
        return License(spdx, spdx, f"https://spdx.org/licenses/{spdx}")
    name = without_spdx_prefix(name)
    return License(name, None, web_address(name) or None) if name else None


def licenses_of(value: Any) -> tuple[License, ...]:
    """Return the licenses in a list of texts, without duplicates."""
    return tuple(dict.fromkeys(filter(None, map(license_of, members(value)))))


# --- people and organisations


def make_person(name: Any, orcid: Any = None, affiliations: Sequence[Agent] = ()) -> Agent | None:
    """Return the record of a person, from untrusted JSON values; None without a name.

    Academic degrees are removed from the name, and an invalid ORCID is ignored.
    """
    whole = without_degrees(plain_text(name).strip(" ,;"))
    number = orcid_of(orcid)
    url = number and f"https://orcid.org/{number}"
    return Agent(whole, *_split_name(whole), url, tuple(affiliations), True) if whole else None


def make_organisation(name: Any, ror: Any = None) -> Agent | None:
    """Return the record of an organisation, from untrusted JSON values; None without a name."""
    return Agent(whole, url=ror_of(ror)) if (whole := plain_text(name)) else None


def orcid_of(value: Any) -> str | None:
    """Return a bare ORCID with a valid check digit (ISO 7064, MOD 11-2), or None."""
    match = _ORCID.match(plain_text(value))
    number, total = match[1] if match else "", 0
    for digit in number[:-1].replace("-", ""):
        total = (total + int(digit)) * 2
    return number if number[-1:] == "0123456789X"[(12 - total % 11) % 11] else None


def ror_of(value: Any) -> str | None:
    """Return the ror.org URL of an id or a URL, or None."""
    return f"https://ror.org/{match[1]}" if (match := _ROR.match(plain_text(value))) else None


def _split_name(whole: str) -> tuple[str, str, str, str]:
    """Return family name, given names, particle and suffix; all empty if ambiguous."""
    parts = [part.strip() for part in whole.split(",") if part.strip()]
    if len(parts) == 1:
        return _split_spoken_name(whole.split(), "")
    if len(parts) == 2 and is_generation(parts[1]):
        return _split_spoken_name(parts[0].split(), parts[1])
    suffix = ""
    if len(parts) == 3 and (is_generation(parts[1]) or is_generation(parts[2])):
        suffix = parts.pop(1 if is_generation(parts[1]) else 2)
    if len(parts) != 2:
        return _AMBIGUOUS
    tokens = parts[0].split()
    number = _count_particles(tokens)
    return " ".join(tokens[number:]), parts[1], " ".join(tokens[:number]), suffix


def _split_spoken_name(tokens: Sequence[str], suffix: str) -> tuple[str, str, str, str]:
    """Split a name whose words are in spoken order."""
    tokens = list(tokens)
    if not suffix and len(tokens) > 2 and is_generation(tokens[-1]):
        suffix = tokens.pop()
    if len(tokens) < 2:
        return _AMBIGUOUS
    if all(unicodedata.name(sign, "").startswith(_FAMILY_FIRST) for sign in "".join(tokens)):
        return (tokens[0], tokens[1], "", suffix) if len(tokens) == 2 else _AMBIGUOUS
    start = next((at for at, token in enumerate(tokens) if at and token[:1].islower()), None)
    if start is not None:
        end = start + _count_particles(tokens[start:])
        particle = " ".join(tokens[start:end])
        return " ".join(tokens[end:]), " ".join(tokens[:start]), particle, suffix
    if all(_INITIALS.match(token) and token.isupper() for token in tokens[1:-1]):
        return tokens[-1], " ".join(tokens[:-1]), "", suffix
    return _AMBIGUOUS


def _count_particles(tokens: Sequence[str]) -> int:
    """Return the number of leading particles; the last word never counts."""
    others = (at for at, token in enumerate(tokens[:-1]) if not token[:1].islower())
    return next(others, max(len(tokens) - 1, 0))


_MAX_EARLIER: Final = 1000
"""Maximum number of earlier versions that are searched for a readable document."""
_KEYWORDS: Final = ("species", "modality", "project")
_DANDISET: Final = "dandiset.yaml"
_FUNDING: Final = frozenset({"dcite:Funder", "dcite:Sponsor"})
_ASSET: Final = ("data_description.json", "metadata.nd.json")
_BOSS: Final = ".boss/channel.json"
_NDSTORE: Final = ".ndstore/channel.json"
_PRECOMPUTED: Final = "provenance"
_LABELS: Final = ("annotation", "segmentation")
"""Types of volumes whose voxels are ids of objects."""
_PEOPLE: Final = re.findall(r"\w+", "authors author creators creator investigators investigator pi")
"""Keys of users that name the authors, the first existing one counts."""
_NAME_SEPARATOR: Final = re.compile(r"[;\n]\s*(?:(?:and|&)\s+)?|(?<!\s)\s+(?:and|&)\s+")


Parsed = Callable[[str], Mapping[str, Any]]
"""Returns the JSON object in a document of one version by its path; empty without a document."""

# --- DANDI


def read_dandiset(parsed: Parsed) -> UpstreamMetadata:
    """Return the citation metadata in ``dandiset.yaml``; empty without that document."""
    about = parsed(_DANDISET)
    people = mappings(about.get("contributor"))
    roles = [plain_texts(person.get("roleName")) for person in people]
    cited = [person for person in people if person.get("includeInCitation") is True]
    if not cited:
        pairs = zip(people, roles, strict=True)
        cited = [person for person, own in pairs if "dcite:Author" in own]
    funders = (
        (make_organisation(person.get("name"), person.get("identifier")), person.get("awardNumber"))
        for person, own in zip(people, roles, strict=True)
        if _FUNDING & set(own)
    )
    identifier = plain_text(about.get("identifier"))
    instance = identifier.partition(":")[0] if ":" in identifier else ""
    published = day(about.get("datePublished"))
    named = plain_text(about.get("id")) if published else identifier
    measured = mapping(about.get("assetsSummary")).get("variableMeasured")
    # names, or PropertyValue objects with one
    listed = members(measured) if isinstance(measured, list) else []
    names = (name.get("value") if isinstance(name, dict) else name for name in listed)
    return UpstreamMetadata(
        authors=tuple(filter(None, map(_contributor, cited))),
        publisher=Agent(f"{instance} Archive") if instance else None,
        published=published,
        created=day(about.get("dateCreated")),
        address=web_address(about.get("url")),
        identifiers=((instance, named),) if instance and named else (),
        licenses=licenses_of(about.get("license")),
        description=plain_text(about.get("description")),
        keywords=plain_texts(about.get("keywords")),
        funders=_distinct(Funder(who, plain_text(award)) for who, award in funders if who),
        related=_distinct(_related(about.get("relatedResource"))),
        variables=plain_texts(list(names)),
    )


def _distinct(values: Iterable[_Value]) -> tuple[_Value, ...]:
    return tuple(dict.fromkeys(values))


def _contributor(contributor: Mapping[str, Any]) -> Agent | None:
    name, identifier = contributor.get("name"), contributor.get("identifier")
    if contributor.get("schemaKey") == "Organization" or ror_of(identifier) is not None:
        return make_organisation(name, identifier)
    affiliations = (
        make_organisation(place.get("name"), place.get("identifier"))
        for place in mappings(contributor.get("affiliation"))
    )
    return make_person(name, identifier, tuple(filter(None, affiliations)))


def _related(value: Any) -> Iterator[tuple[str, str, str]]:
    for one in mappings(value):
        relation = plain_text(one.get("relation")).removeprefix("dcite:")
        for stated in (one.get("identifier"), one.get("url")):
            if found := doi_of(stated) or web_address(stated):
                yield relation, found, "DOI" if doi_of(stated) else "URL"
                break


# --- AIND


def read_asset(parsed: Parsed) -> UpstreamMetadata:
    """Return the citation metadata in the sidecars of an AIND asset; empty without sidecars."""
    joined = parsed(_ASSET[1])
    about = parsed(_ASSET[0]) or mapping(joined.get("data_description"))
    others = mapping(joined.get("other_identifiers")) or mapping(joined.get("external_links"))
    name = plain_text(about.get("name")) or plain_text(joined.get("name"))
    listed = members(about.get("modalities") or about.get("modality"))
    modalities = plain_texts(
        [each.get("name") if isinstance(each, dict) else each for each in listed]
    )
    identifiers = [("AIND asset", name)] if name else []
    identifiers += [
        (plain_text(kind), value)
        for kind, values in others.items()
        for value in plain_texts(values)
    ]
    return UpstreamMetadata(
        authors=_distinct(_investigators(about.get("investigators"))),
        publisher=_organisation(about.get("institution")),
        created=day(about.get("creation_time")) or day(about.get("creation_date")),
        cite_created=True,
        identifiers=tuple(identifiers),
        licenses=licenses_of(about.get("license")),
        description=plain_text(about.get("data_summary")),
        keywords=(*plain_texts(about.get("tags")), *modalities),
        funders=_distinct(_funders(about.get("funding_source"))),
        variables=modalities,
    )


def _investigators(value: Any) -> Iterator[Agent]:
    """Yield the investigators: one per object with a name, one or several per text."""
    for member in members(value):
        people = list(map(make_person, split_person_names(plain_text(member))))
        if isinstance(member, dict):
            people = [make_person(member.get("name"), member.get("registry_identifier"))]
        yield from filter(None, people)


def _funders(value: Any) -> Iterator[Funder]:
    for member in members(value):
        funding = member if isinstance(member, dict) and "funder" in member else {"funder": member}
        if funder := _organisation(funding.get("funder")):
            yield Funder(funder, plain_text(funding.get("grant_number")))


def _organisation(value: Any) -> Agent | None:
    about = mapping(value)
    name = about.get("name") or about.get("abbreviation") if about else value
    return make_organisation(name, about.get("registry_identifier"))


# --- volumes


def read_boss(parsed: Parsed) -> UpstreamMetadata:
    """Return the metadata of a BOSS channel, its experiment and its collection."""
    metadata = parsed(".boss/metadata.json")
    scopes = [mapping(metadata.get(one)) for one in ("collection", "experiment", "channel")]
    pairs = {key.strip().casefold(): value for scope in scopes for key, value in scope.items()}
    texts = (pairs[key] for key in _PEOPLE if isinstance(pairs.get(key), str))
    named = (map(make_person, _NAME_SEPARATOR.split(text)) for text in texts)
    people = (_distinct(filter(None, some)) for some in named)
    funders = (make_organisation(pairs.get(key)) for key in ("funding", "funder"))
    requests = (plain_text(pairs[key]) for key in sorted(pairs) if re.search("citation|cite", key))
    return UpstreamMetadata(
        authors=next(filter(None, people), ()),
        description=_descriptions(parsed, ".boss", "channel", "experiment", "collection"),
        funders=tuple(Funder(funder) for funder in funders if funder is not None),
        citation_requests=_distinct(filter(None, requests)),
        variables=_voxels(parsed(_BOSS), "type", "datatype"),
    )


def read_ndstore(parsed: Parsed) -> UpstreamMetadata:
    """Return the metadata of an ndstore channel and its project."""
    return UpstreamMetadata(
        description=_descriptions(parsed, ".ndstore", "channel", "project"),
        variables=_voxels(parsed(_NDSTORE), "channel_type", "datatype"),
    )


def read_precomputed(parsed: Parsed) -> UpstreamMetadata:
    """Return the metadata in the ``provenance`` of a layer."""
    return UpstreamMetadata(
        description=plain_text(parsed(_PRECOMPUTED).get("description")),
        variables=_voxels(parsed("info"), "type", "data_type"),
    )


def _voxels(about: Mapping[str, Any], kind: str, data_type: str) -> tuple[str, ...]:
    """Return what the voxels of a volume mean, with their data type."""
    name, unit = plain_text(about.get(kind)), plain_text(about.get(data_type))
    meaning = "object ids" if name in _LABELS else "image intensity"
    return (f"{meaning} ({unit} voxels)" if unit else meaning,) if name else ()


def _descriptions(parsed: Parsed, folder: str, *scopes: str) -> str:
    """Return the descriptions in the documents of a channel and of what it is in, as sentences."""
    listed = (parsed(f"{folder}/{scope}.json") for scope in scopes)
    about = dict.fromkeys(plain_text(one.get("description")) for one in listed)
    ends = (".", "!", "?", "…")
    return " ".join(one if one.endswith(ends) else f"{one}." for one in about if one)


# --- any of them

_READERS: Final = (
    (_DANDISET, read_dandiset),
    *((one, read_asset) for one in _ASSET),
    *((_BOSS, read_boss), (_NDSTORE, read_ndstore), (_PRECOMPUTED, read_precomputed)),
)
"""The reader of each document; the first existing document determines the kind of upstream."""


def read_work(state: CitedState) -> CitedWork:
    """Return the citation metadata of a state, with that in the committed documents.

    A document that is unreadable is read from the last readable version.

    Raises
    ------
    NotCitableError
        The commit was not created by neuromirror.
    """
    with ObjectReader(state.git_dir) as reader:
        description = _read_description(reader, state.commit)
        attributes = mapping(description.get("attributes"))
        unreadable = frozenset(plain_texts(attributes.get(UNREADABLE)))
        paths = frozenset(plain_texts(description.get("documents"))) | unreadable

        def parsed(path: str) -> Mapping[str, Any]:
            if path in unreadable:
                return _last_readable(reader, state.commit, path)
            return parse_object(reader.read(f"{state.commit}:{path}")) if path in paths else {}

        read = next((read for path, read in _READERS if path in paths), None)
        metadata = UpstreamMetadata() if read is None else read(parsed)
    return _merge(state, description, metadata)


def _last_readable(reader: ObjectReader, commit: str, path: str) -> Mapping[str, Any]:
    with suppress(ObjectMissingError):  # the history ends
        for generation in range(1, _MAX_EARLIER):
            reader.read(f"{commit}~{generation}")
            with suppress(ObjectMissingError):
                if found := parse_object(reader.read(f"{commit}~{generation}:{path}")):
                    return found
    return {}


def _read_description(reader: ObjectReader, commit: str) -> Mapping[str, Any]:
    try:
        content = reader.read(f"{commit}:{DESCRIPTION_PATH}")
        description: Mapping[str, Any] = parse_description(content, DESCRIPTION_PATH)
        for field in ("dataset", "source", "version", "kind", "state", "title", "bytes"):
            description[field]
        assert isinstance(description["files"], int)
    except (ObjectMissingError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise NotCitableError(
            f"commit {commit} was not created by neuromirror: its {DESCRIPTION_PATH} is "
            "missing or invalid"
        ) from error
    return description


def _merge(
    state: CitedState, description: Mapping[str, Any], metadata: UpstreamMetadata
) -> CitedWork:
    """Merge the metadata of upstream, which takes precedence, with the fields of the mirror."""
    attributes = {
        name: plain_texts(value) for name, value in mapping(description.get("attributes")).items()
    }
    source = plain_text(description["source"])
    people = map(make_person, attributes.get("investigator", ()))
    funders = map(make_organisation, attributes.get("funder", ()))
    subjects = (keyword for name in _KEYWORDS for keyword in attributes.get(name, ()))
    keywords: dict[str, str] = {}
    for keyword in (*metadata.keywords, *subjects):
        keywords.setdefault(keyword.casefold(), keyword)
    metadata = replace(
        metadata,
        authors=metadata.authors or tuple(filter(None, people)),
        created=metadata.created or day(next(iter(attributes.get("created", ())), None)),
        address=metadata.address or web_address(description.get("landing-page")) or source,
        licenses=metadata.licenses or licenses_of(description.get("license")),
        keywords=tuple(keywords.values()),
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
            for path, one in sorted(mapping(description.get("parts")).items())
        ),
    )
