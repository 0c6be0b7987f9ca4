"""The documents, facts and viewer links of a BOSS channel.

Members are left out if they change with other datasets or with upstream's operation: lists of
siblings (which also depend on the token), the storage of voxels, and the status of the downsampling
job, which shows in the available levels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from neuromirror.model import DatasetFacts, Document
from neuromirror.sources.boss.channel_info import BossChannelInfo
from neuromirror.sources.boss.intern_client import is_name
from neuromirror.sources.s3 import local_ids
from neuromirror.sources.s3.sidecars import one_line, without_secrets

_LEFT_OUT: Final[Mapping[str, frozenset[str]]] = {
    "collection": frozenset({"experiments"}),
    "experiment": frozenset({"channels"}),
    "channel": frozenset({"storage_type", "bucket", "cv_path", "downsample_status"}),
    "coordinate_frame": frozenset(),
    "downsample": frozenset({"status", "cuboid_size"}),
}
_UNORDERED: Final = ("sources", "related")
_CLOUD_VOLUME: Final = "cloudvol"
_NEUROGLANCER: Final = "https://neuroglancer-demo.appspot.com/#!"
_NDVIZ: Final = "https://viz.neurodata.io/#!"
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_DOI: Final = re.compile(r"10\.[0-9]{4,9}/[^\s\"'<>]+")
_ATTRIBUTES: Final = {
    **{"species": "species", "organism": "species", "modality": "modality"},
    **{"project": "project", "investigator": "investigator", "pi": "investigator"},
    **{"funder": "funder", "funding": "funder", "subject": "subject"},
}
"""Case-insensitive keys of the metadata that become attributes."""


def documents(found: BossChannelInfo) -> list[Document]:
    """Return a channel's documents, ``.boss/*.json``: upstream's JSON, sorted and without secrets.

    Raises
    ------
    UnexpectedReplyError
        If the JSON contains NaN or infinity, which only Python accepts as JSON.
    """
    records: dict[str, Mapping[str, Any] | None] = {
        "collection": found.collection,
        "experiment": found.experiment,
        "channel": found.channel,
        "coordinate_frame": found.frame,
        "downsample": found.downsample_info,
    }
    try:
        made = [
            _document(name, _without_volatile(record, _LEFT_OUT[name]))
            for name, record in records.items()
            if record is not None
        ]
    except ValueError as error:
        raise found.unexpected_reply(f"its description is not JSON: {error}") from error
    scopes = zip(("collection", "experiment", "channel"), found.metadata, strict=True)
    metadata = {scope: dict(pairs) for scope, pairs in scopes if pairs}
    return [*made, *([_document("metadata", metadata)] if metadata else [])]


def facts(found: BossChannelInfo, address: str) -> DatasetFacts:
    """Return title, license, attributes and links of a channel.

    ``address`` is the channel's URL without the API's version:
    ``https://api.bossdb.io/collection/experiment/channel``.
    """
    pairs = _by_key(found)
    name = "/".join(found.names)
    description = one_line(found.channel.get("description"))
    attributes = {(_ATTRIBUTES[key], value) for key, value in pairs.items() if key in _ATTRIBUTES}
    if not any(known == "project" for known, _ in attributes):
        attributes.add(("project", found.names[0]))
    page = pairs.get("url", "")
    license_ = pairs.get("license") or pairs.get("licence")
    doi_text = " ".join(pairs[key] for key in sorted(pairs, key=len) if "doi" in key)
    doi = _DOI.search(doi_text)
    sources = found.channel.get("sources")
    return DatasetFacts(
        title=f"{name}: {description}" if description else name,
        license=(license_,) if license_ else (),
        doi=doi.group() if doi else None,
        landing_page=page if page.startswith(("http://", "https://")) else None,
        attributes=tuple(sorted(attributes)),
        inputs=tuple(sorted(_local_ids(found, sources if isinstance(sources, list) else []))),
        links=tuple(sorted(_links(found, address).items())),
    )


def _links(found: BossChannelInfo, address: str) -> dict[str, str]:
    """Return viewer and data URLs by kind.

    Formats: Neuroglancer's data sources ``boss`` and ``precomputed``, and its state in a URL. ndviz
    is a Neuroglancer of 2018, whose state had layers by name.
    """
    bucket, path = found.channel.get("bucket"), found.channel.get("cv_path")
    is_open = found.channel.get("storage_type") == _CLOUD_VOLUME
    kind = "segmentation" if found.channel.get("type") == "annotation" else "image"
    name = found.names[2]
    made = {"boss": f"boss://{address}"}
    named = bucket if isinstance(bucket, str) and _BUCKET.fullmatch(bucket) else None
    if is_open and named is not None and is_name(path):
        host = f"s3.amazonaws.com/{named}" if "." in named else f"{named}.s3.amazonaws.com"
        made["precomputed"] = f"precomputed://https://{host}/{quote(path.strip('/'))}"
    source = made.get("precomputed", made["boss"])
    made["neuroglancer"] = _state(
        _NEUROGLANCER, {"layers": [{"name": name, "source": source, "type": kind}]}
    )
    made["ndviz"] = _state(_NDVIZ, {"layers": {name: {"source": source, "type": kind}}})
    return made


def _state(viewer: str, state: Mapping[str, Any]) -> str:
    return viewer + quote(json.dumps(state, separators=(",", ":")), safe=":/,")


def _local_ids(found: BossChannelInfo, siblings: list[Any]) -> Iterator[str]:
    """Yield the local ids of channels in the same experiment."""
    for sibling in filter(is_name, siblings):
        made = local_ids.local_id([one.encode() for one in (*found.names[:2], sibling)])
        if made is not None:
            yield made


def _by_key(found: BossChannelInfo) -> dict[str, str]:
    """Return the metadata as lines by lower-case key; the channel's values take precedence."""
    made: dict[str, str] = {}
    for pairs in found.metadata:
        for key, value in (pairs or {}).items():
            if line := one_line(value):
                made[key.strip().casefold()] = line
    return made


def _without_volatile(record: Mapping[str, Any], left_out: frozenset[str]) -> dict[str, Any]:
    kept = {name: value for name, value in record.items() if name not in left_out}
    for name in _UNORDERED:
        if isinstance(kept.get(name), list):
            kept[name] = sorted(kept[name], key=str)
    return kept


def _document(name: str, value: Mapping[str, Any]) -> Document:
    dumped = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2, sort_keys=True)
    # a lone surrogate becomes a JSON escape
    content = without_secrets(f"{dumped}\n".encode("utf-8", "backslashreplace"))
    return Document(f".boss/{name}.json".encode(), content)
