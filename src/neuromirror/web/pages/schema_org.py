"""Schema.org metadata of a version (Dataset), for search engines.

Format: Google Search Central, "Dataset (Dataset, DataCatalog, DataDownload) structured data".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from neuromirror.index import FileRow, RelatedVersion
from neuromirror.lab.cite.crates import media_type
from neuromirror.lab.cite.works import Agent, CitedWork, Person
from neuromirror.model import format_bytes
from neuromirror.web.addresses import (
    checksums_address,
    croissant_address,
    dataset_address,
    download_address,
    lock_file_address,
    manifest_address,
    version_address,
)

_MIN_DESCRIPTION, _MAX_DESCRIPTION = 50, 5000
"""Length of a description that Google accepts."""
_KEYWORD_ATTRIBUTES = ("species", "modality", "platform", "project")
"""Attributes whose values become keywords."""


def script_text(document: Mapping[str, Any]) -> str:
    """Return a JSON-LD document as text, escaped for a ``script`` element."""
    text = json.dumps(document)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def input_addresses(ancestors: Sequence[RelatedVersion], site: str) -> list[str]:
    """Return the URLs of the datasets that a version was derived from, or their names.

    Parameters
    ----------
    ancestors
        The versions and datasets that it was derived from.
    site
        The public URL of the catalogue.
    """
    return [
        one.name
        if not one.dataset
        else site + version_address(one.dataset, one.label)
        if one.label
        else site + dataset_address(one.dataset)
        for one in ancestors
    ]


def linked_data(
    work: CitedWork,
    alias: str,
    attributes: Mapping[str, Sequence[str]],
    *,
    site: str,
    title: str,
    has_checksums: bool,
    inputs: Sequence[str] = (),
    files: Sequence[FileRow] = (),
) -> dict[str, Any]:
    """Return the JSON-LD of a version.

    Parameters
    ----------
    work, alias, attributes
        The cited work, the alias of the dataset, and the version's attributes in the index.
    site, title
        Public URL and title of the catalogue.
    has_checksums
        Whether the catalogue has a checksum list of the version.
    inputs
        URLs or names of the datasets that it was derived from.
    files
        The files to list as downloads; the first ones of a large version.
    """
    state = work.state
    searched = [value for name in _KEYWORD_ATTRIBUTES for value in attributes.get(name, ())]
    document: dict[str, Any] = {
        "@context": "https://schema.org/",
        "@type": "Dataset",
        "name": work.title or state.name,
        "description": _description(work),
        "url": site + dataset_address(state.name),
        "sameAs": list(_upstream(work)),
        "version": state.label,
        "identifier": [*_dois(work), f"swh:1:rev:{state.commit}"],
        "license": [one.url or one.name for one in work.licenses],
        "creator": [_agent(one) for one in work.authors],
        "publisher": None if work.publisher is None else _agent(work.publisher),
        "funder": [_agent(one.organisation) for one in work.funders],
        "keywords": list(dict.fromkeys((*work.keywords, *searched))),
        "measurementTechnique": list(attributes.get("modality", ())),
        "variableMeasured": list(work.variables),
        "isBasedOn": list(inputs),
        "isAccessibleForFree": True,
        "dateCreated": _day(work.created),
        "datePublished": _day(work.published),
        "dateModified": None
        if work.modified is None or state.time is None
        else state.time.isoformat(),
        "includedInDataCatalog": {"@type": "DataCatalog", "name": title, "url": f"{site}/"},
        "distribution": [
            *_distributions(work, alias, site, has_checksums=has_checksums),
            *(_file_distribution(work, site, one) for one in files),
        ],
    }
    return {key: value for key, value in document.items() if value not in (None, [], "")}


def _file_distribution(work: CitedWork, site: str, file: FileRow) -> dict[str, Any]:
    entry = {
        "@type": "DataDownload",
        "name": file.path,
        "contentUrl": site + download_address(work.state.name, work.state.label, file.path),
        "contentSize": None if file.size is None else f"{file.size} B",
        "encodingFormat": media_type(file.path),
        "sha256": file.digest_values.get("sha256"),
    }
    return {key: value for key, value in entry.items() if value is not None}


def _description(work: CitedWork) -> str:
    """Return the archive's description, extended by counts if it is too short."""
    own = work.description.strip()
    if len(own) < _MIN_DESCRIPTION:
        name = work.title or work.state.name
        counts = f"{work.files:,} files, {format_bytes(work.bytes)}"
        own = " ".join(
            part
            for part in (
                own,
                f"{name}: the exact state {work.state.label} of {work.source or work.state.name},"
                f" as a version-controlled DataLad dataset of {counts}.",
            )
            if part
        )
    return own if len(own) <= _MAX_DESCRIPTION else f"{own[: _MAX_DESCRIPTION - 1]}…"


def _upstream(work: CitedWork) -> Iterator[str]:
    yield from _dois(work)
    if work.address.startswith(("https://", "http://")):
        yield work.address


def _dois(work: CitedWork) -> list[str]:
    return [f"https://doi.org/{work.doi}"] if work.doi else []


def _agent(one: Agent) -> dict[str, Any]:
    if not isinstance(one, Person):
        agent = {"@type": "Organization", "name": one.name, "sameAs": one.ror}
    else:
        agent = {
            "@type": "Person",
            "name": one.full_name,
            "givenName": one.given,
            "familyName": one.family,
            "sameAs": f"https://orcid.org/{one.orcid}" if one.orcid else None,
        }
    return {key: value for key, value in agent.items() if value}


def _day(value: Any) -> str | None:
    return None if value is None else str(value.isoformat())


def _distributions(
    work: CitedWork, alias: str, site: str, *, has_checksums: bool
) -> Iterator[dict[str, str]]:
    state = work.state
    text = "text/plain"
    found = [
        # the encoding format of a repository in MLCommons Croissant
        (
            "Git repository (a DataLad dataset)",
            f"/alias/{alias}",
            f"git+{site.partition('://')[0]}",
        ),
        (
            "Manifest: every file with its size and checksum",
            manifest_address(work.digest),
            "application/zstd",
        ),
        ("Lock file of this version", lock_file_address("datasets.lock", [work.name]), text),
        (
            "Croissant metadata of every file",
            croissant_address(state.name, state.label),
            "application/ld+json",
        ),
    ]
    if has_checksums:
        found.append(("SHA-256 of every file", checksums_address(state.name, state.label), text))
    for name, address, form in found:
        yield {
            "@type": "DataDownload",
            "name": name,
            "contentUrl": site + address,
            "encodingFormat": form,
        }
