"""CITATION.cff, Citation File Format 1.2.0 (schema-guide of citation-file-format).

YAML in block style, with texts in double quotes, which JSON and YAML parse in the same way. Several
works are the references of one file with the title of the collection.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from neuromirror.lab.cite.json_text import distinct, without_empty
from neuromirror.lab.cite.phrases import note
from neuromirror.lab.cite.works import Agent, CitationCollection, CitedWork, Person
from neuromirror.model.licenses import SPDX

_DOI: Final = re.compile(r"10\.\d{4,9}(\.\d+)?/[A-Za-z0-9:/_;\-.()\[\]\\]+\Z")
_WEB: Final = re.compile(r"(?:https?|s?ftp)://\S+\Z")
_UNKNOWN: Final = "Authors not stated upstream"
_MESSAGE: Final = "If you use these data, please cite them as below."
# printable for JSON, not for YAML
_NOT_YAML: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def write_cff(collection: CitationCollection) -> Iterator[str]:
    """Yield the text of a ``CITATION.cff`` file."""
    only = collection.single_work
    if only is not None:
        about = {
            "message": f"{_MESSAGE} {_note(only)}",
            "type": "dataset",
            **_work_fields(only),
        }
    else:
        about = {
            "message": "If you use these data, please cite each of the references below.",
            "type": "dataset",
            "title": collection.title,
            "authors": _authors(collection.works),
            "references": [
                {"type": "data", **_work_fields(work), "notes": _note(work)}
                for work in collection.works
            ],
        }
    yield from _block({"cff-version": "1.2.0", **about}, 0)


def _work_fields(work: CitedWork) -> dict[str, Any]:
    """Return the fields of a work, for a file or for a reference."""
    is_doi = work.doi is not None and _DOI.match(work.doi)
    license_ = work.licenses[0] if len(work.licenses) == 1 else None
    is_known = _has_known_license(work)
    return without_empty(
        {
            "title": work.title,
            "authors": _authors([work]),
            "version": work.version,
            "date-released": None if work.citation_date is None else work.citation_date.isoformat(),
            "doi": work.doi if is_doi else None,
            "url": work.address if _WEB.match(work.address) else None,
            "license": license_.spdx if license_ is not None and is_known else None,
            "license-url": None if license_ is None or is_known else license_.url,
            "keywords": list(work.keywords),
            "abstract": work.description,
            "commit": work.state.commit,
            "identifiers": list(_identifiers(work, named_doi=bool(is_doi))),
        }
    )


def _has_known_license(work: CitedWork) -> bool:
    return len(work.licenses) == 1 and work.licenses[0].spdx in SPDX


def _note(work: CitedWork) -> str:
    return note(work, names_license=not _has_known_license(work))


def _identifiers(work: CitedWork, *, named_doi: bool) -> Iterator[dict[str, str]]:
    if work.doi is not None and named_doi:
        about = "Upstream's DOI of this version" if work.is_published else "Upstream's DOI"
        yield {"type": "doi", "value": work.doi, "description": about}
    elif work.doi is not None:
        yield {"type": "other", "value": f"doi:{work.doi}", "description": "Upstream's DOI"}
    yield {
        "type": "swh",
        "value": work.swhid,
        "description": "The commit of the DataLad dataset that these data were retrieved as",
    }
    yield {
        "type": "swh",
        "value": f"swh:1:dir:{work.state.tree}",
        "description": "The directory tree, whose identifier depends on every file",
    }
    yield {"type": "other", "value": work.digest, "description": "The digest of its state"}
    for kind, value in work.identifiers:
        yield {
            "type": "other",
            "value": value,
            "description": f"Identifier at the archive ({kind})",
        }


def _authors(works: list[CitedWork] | tuple[CitedWork, ...]) -> list[dict[str, str]]:
    """Return all authors without duplicates; the format requires at least one."""
    found = [_author(one) for work in works for one in work.authors]
    if not found:
        publishers = (work.publisher.name for work in works if work.publisher is not None)
        found = [{"name": name} for name in dict.fromkeys(publishers)] or [{"name": _UNKNOWN}]
    return distinct(found)


def _author(one: Agent) -> dict[str, str]:
    if not isinstance(one, Person):
        return without_empty({"name": one.name, "website": one.ror})
    return without_empty(
        {
            "family-names": one.family or one.full_name,
            "given-names": one.given,
            "name-particle": one.particle,
            "name-suffix": one.suffix,
            "affiliation": "; ".join(affiliation.name for affiliation in one.affiliations),
            "orcid": one.orcid_url,
        }
    )


def _block(table: dict[str, Any], depth: int) -> Iterator[str]:
    """Yield the lines of a mapping."""
    space = "  " * depth
    for name, value in table.items():
        if isinstance(value, list):
            yield f"{space}{name}:\n"
            for one in value:
                if isinstance(one, dict):
                    first, *rest = _block(one, depth + 2)
                    yield f"{space}  - {first.lstrip()}"
                    yield from rest
                else:
                    yield f"{space}  - {_text(one)}\n"
        else:
            yield f"{space}{name}: {_text(value)}\n"


def _text(value: str) -> str:
    quoted = json.dumps(value, ensure_ascii=False)
    return _NOT_YAML.sub(lambda found: f"\\u{ord(found.group()):04x}", quoted)
