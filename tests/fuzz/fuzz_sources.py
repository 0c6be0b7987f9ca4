"""Targets: what archives say of datasets: DANDI, AIND, BOSS, ndstore, precomputed layers."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

from fuzz_core import SEEDS, check_agreement, fixed_seeds, target
from urllib3 import HTTPHeaderDict

from neuromirror.model import DatasetRef, Document, FileRecord, NeuromirrorError
from neuromirror.model.archive_metadata import split_person_names, without_degrees
from neuromirror.net import NetError, Session
from neuromirror.net.responses import ResponseHead, parse_http_date, stated_checksums
from neuromirror.net.s3_pages import ObjectRow
from neuromirror.sources.boss.channel_info import BossChannelInfo as BossDescribed
from neuromirror.sources.boss.channel_info import documents as boss_documents
from neuromirror.sources.boss.channel_info import facts as boss_facts
from neuromirror.sources.boss.channel_info import volume_of as boss_volume
from neuromirror.sources.dandi.archive import read_pages
from neuromirror.sources.dandi.objects import BlobTable, ObjectReply, parse_object_url
from neuromirror.sources.dandi.rows import BlobRow, parse_row
from neuromirror.sources.dandi.versions import MetadataShards, fingerprint, parse_version_info
from neuromirror.sources.errors import UnexpectedReplyError
from neuromirror.sources.ndstore.channel_info import documents as ndstore_documents
from neuromirror.sources.ndstore.channel_info import facts as ndstore_facts
from neuromirror.sources.ndstore.channel_info import level_shifts, parse_channels
from neuromirror.sources.ndstore.channel_info import volume_of as ndstore_volume
from neuromirror.sources.precomputed.encodings import encoding_of
from neuromirror.sources.precomputed.layer import is_volume, layer_profile
from neuromirror.sources.s3.aind import AIND
from neuromirror.sources.s3.aind import asset_facts as aind_facts
from neuromirror.sources.s3.aind import normalize as aind_kept
from neuromirror.sources.s3.discovery import docdb_times
from neuromirror.sources.s3.object_claims import part_count
from neuromirror.sources.s3.sidecars import without_members, without_secrets
from neuromirror.sources.volumes.channels import check_size, plan_volume
from neuromirror.sources.volumes.grid import zarr_documents
from neuromirror.sources.volumes.options import VolumeOptions

_ASSET = SEEDS["asset"]


def _json(data: bytes) -> Any:
    """Return what a session returns for a body; a body that is not JSON is refused."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise UnexpectedReplyError("nested too deeply") from None
    except ValueError as error:
        raise UnexpectedReplyError(str(error)) from error


def _refuse_constant(constant: str) -> Any:
    raise ValueError(constant)


@target("dandi-asset", UnexpectedReplyError, seeds=fixed_seeds(json.dumps(_ASSET)), kind="json")
def dandi_asset(data: bytes) -> None:
    """Rows of an asset list; nothing but an exception by name may come of a bad one."""
    row = _json(data)
    shards = MetadataShards()
    shards.add_rows([row])
    for document in shards.documents():
        check_agreement(isinstance(json.loads(document.content), dict), "a shard", document)
    for published in (True, False):
        found = parse_row(row, 1, published=published, allow_private=False)
        if isinstance(found, BlobRow):
            check_agreement(
                isinstance(found.record, FileRecord) and found.record.path != b"", found
            )
            if found.object_url is not None:
                with suppress(ValueError):
                    parse_object_url(found.object_url)


class _FixedReplies(Session):
    """A session whose replies are given in advance; the last one is repeated."""

    def __init__(self, replies: Sequence[Any]) -> None:
        super().__init__()
        self._replies = list(replies)

    def get_json(self, url: str, *_: Any, **__: Any) -> Any:
        """Return the next reply."""
        if not self._replies:
            raise NetError(url)
        return self._replies.pop(0)


_PAGE = {
    "count": 2,
    "next": "https://api.example.org/x/?page=2",
    "previous": None,
    "results": [_ASSET],
}
_LAST = {"count": 2, "next": None, "previous": None, "results": [{**_ASSET, "path": "b"}]}


@target("dandi-page", NeuromirrorError, seeds=fixed_seeds(json.dumps([_PAGE, _LAST])), kind="json")
def dandi_page(data: bytes) -> None:
    """Pages of a list, with their counts and links."""
    replies = _json(data)
    session = _FixedReplies(replies if isinstance(replies, list) else [replies])
    url = "https://api.example.org/x/"
    found = [
        row
        for rows in read_pages(session, url, {}, what="x", page_size=1, key="path")
        for row in rows
    ]
    check_agreement(len(found) <= 2 * len(data), len(found))


_INFO = SEEDS["info"]


@target("dandi-version", NeuromirrorError, seeds=fixed_seeds(json.dumps(_INFO)), kind="json")
def dandi_version(data: bytes) -> None:
    """What ``/info/`` says of a version: its facts, and ``dandiset.yaml``."""
    info = _json(data)
    dataset = DatasetRef("dandi", "000027", "https://api.example.org/api/dandisets/000027/")
    if isinstance(info, dict):
        fingerprint(info, info.get("dandiset"), "OPEN")
    stated = parse_version_info(dataset, "0.210831.2033", info, doi=None, private=False)
    reloaded = json.loads(stated.document.content)
    check_agreement(isinstance(reloaded, dict), "dandiset.yaml is no object")


_DESCRIPTION = SEEDS["description"]


@target(
    "aind-sidecar",
    seeds=fixed_seeds(json.dumps(_DESCRIPTION), json.dumps({"data_description": _DESCRIPTION})),
    kind="json",
)
def aind_sidecar(data: bytes) -> None:
    """Sidecars of AIND: nothing may be raised, whatever they hold."""
    for name in ("data_description.json", "metadata.nd.json", "processing.json", "subject.json"):
        found = aind_facts("ecephys_625749_2022-08-03_15-15-06", [Document(name.encode(), data)])
        for text in (found.title, *found.license, *(value for _, value in found.attributes)):
            check_agreement(text.isprintable(), text)
        text = "".join(found.inputs)
        text.encode()
    aind_facts(data.decode("utf-8", "replace"), [])
    AIND.is_document(data[:100])
    kept = aind_kept(b"metadata.nd.json", data)
    check_agreement(len(kept) <= len(data), "longer than before")


@target(
    "secrets",
    seeds=fixed_seeds(
        json.dumps(_DESCRIPTION),
        'token: "abc" # password=xyz\nhttps://a:b@c/?sig=1',
        "s://:b@" + "://@" * 5000,
    ),
    kind="json",
)
def secrets(data: bytes) -> None:
    """Documents without secrets: JSON stays JSON, and a second pass changes nothing."""
    cleaned = without_secrets(data)
    check_agreement(_is_json(cleaned) or not _is_json(data), "no longer JSON", cleaned)
    check_agreement(without_secrets(cleaned) == cleaned, "a second pass", cleaned)
    left = without_members(data, {"url", "name"})
    check_agreement(_is_json(left) or not _is_json(data), "no longer JSON", left)
    if left != data:
        check_agreement(isinstance(json.loads(left), dict), "no object")


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return False
    return True


_BOSS = SEEDS["boss"]


def _plan(volume: Any) -> None:
    """Process a volume as a visit does: choose chunks, count files, write documents."""
    made = plan_volume(volume, _options())
    check_size(made, _options(), "x")
    for document in zarr_documents(made):
        json.loads(document.content)


@cache
def _options() -> VolumeOptions:
    return VolumeOptions.model_validate({"api": "https://api.example.org/v1"})


@target("boss", NeuromirrorError, seeds=fixed_seeds(json.dumps(_BOSS)), kind="json")
def boss(data: bytes) -> None:
    """JSON of a BOSS: all that describes a channel."""
    document = _json(data)
    if not isinstance(document, dict):
        return
    parts = {name: document.get(name) for name in _BOSS}
    if not all(isinstance(part, dict) for part in parts.values()):
        return
    metadata = {str(name): str(value) for name, value in parts["metadata"].items()}
    found = BossDescribed(
        ("c", "e", "ch"),
        parts["collection"],
        parts["experiment"],
        parts["channel"],
        parts["frame"],
        parts["downsample"],
        ({}, None, metadata),
    )
    boss_documents(found)
    boss_facts(found, "https://api.example.org/c/e/ch")
    found.loss_hint  # noqa: B018 - a property
    volume, _ = boss_volume(found, host="api.example.org", prefix="", secure=True)
    _plan(volume)


_NDSTORE = SEEDS["ndstore"]


@target("ndstore", NeuromirrorError, seeds=fixed_seeds(json.dumps(_NDSTORE)), kind="json")
def ndstore(data: bytes) -> None:
    """Info of an ndstore project."""
    for found in list(parse_channels(_json(data), "token").values())[:20]:
        found.signal.encode("utf-8", "backslashreplace")
        ndstore_documents(found)
        ndstore_facts(found, "https://example.org/nd/sd")
        volume, _ = ndstore_volume(
            found, host="example.org", prefix="nd/sd/", secure=True, unit="nanometer"
        )
        level_shifts(found)
        _plan(volume)


_LAYER = SEEDS["layer"]


@target("precomputed-layer", seeds=fixed_seeds(json.dumps(_LAYER)), kind="json")
def precomputed_layer(data: bytes) -> None:
    """``info`` and ``provenance`` of a precomputed layer: facts come of whatever they hold."""
    profile = layer_profile(lambda name: f"https://b.example.org/{name}", lambda *_: "a/b")
    documents = [Document(b"info", data), Document(b"provenance", data)]
    found = profile.facts("project/layer", documents, [])
    found.title.encode()
    with suppress(UnexpectedReplyError):
        document = _json(data)
        if isinstance(document, Mapping):
            is_volume(document)


_PEOPLE = fixed_seeds("Doe, Jane; José Núñez, PhD and A. B. Smith Jr. & X")


@target("people", seeds=_PEOPLE, kind="text")
def people(data: bytes) -> None:
    """Names of several people in one text."""
    for name in split_person_names(data.decode("utf-8", "replace")):
        without_degrees(name)
        check_agreement(name.strip() != "", "an empty name")


@target("docdb", NeuromirrorError, seeds=fixed_seeds(json.dumps(SEEDS["docdb"])), kind="json")
def docdb(data: bytes) -> None:
    """Pages of records of AIND's DocDB."""
    replies = _json(data)
    session = _FixedReplies(replies if isinstance(replies, list) else [replies])
    docdb_times(session, "https://x.example.org/", "s3://b")


_table = cache(BlobTable)


@target("object-headers", seeds=fixed_seeds(json.dumps(SEEDS["headers"])), kind="json")
def object_headers(data: bytes) -> None:
    """Headers of objects, and ETags in listings, as they are kept."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(document, dict) or not all(isinstance(one, str) for one in document.values()):
        return
    headers = HTTPHeaderDict(document)
    reply = ObjectReply.of(ResponseHead(200, headers))
    check_agreement(reply.size is None or reply.size >= 0, reply)
    encoding_of(headers)
    stated_checksums(headers)
    parse_http_date(headers.get("Date", ""))
    etag, table, blob = headers.get("ETag", "").strip('"'), _table(), UUID(int=1)
    table._shards[0].clear()
    row = ObjectRow(b"k", 5, etag, datetime.now(UTC), version_id=headers.get("x-amz-version-id"))
    part_count(row)
    if table.add(blob, row):
        found = table.get(blob)
        check_agreement(found is not None and found.etag == etag, etag, found)
