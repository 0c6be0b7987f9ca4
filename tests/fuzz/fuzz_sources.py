"""Targets: what archives say of datasets: DANDI, AIND, BOSS, ndstore, precomputed layers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any
from unittest.mock import patch
from uuid import UUID

from fuzz_core import check_agreement, fixed_seeds, target

from neuromirror.model import DatasetRef, Document, FileRecord, NeuromirrorError
from neuromirror.model.person_names import split_person_names, without_degrees
from neuromirror.net import NetError, ObjectRow, ResponseHead, Session, parse_http_date
from neuromirror.net.responses import case_insensitive
from neuromirror.sources.boss.channel_info import BossChannelInfo as BossDescribed
from neuromirror.sources.boss.channel_info import volume_of as boss_volume
from neuromirror.sources.boss.client import BossClient
from neuromirror.sources.boss.documents import documents as boss_documents
from neuromirror.sources.boss.documents import facts as boss_facts
from neuromirror.sources.dandi.blob_versions import BlobTable
from neuromirror.sources.dandi.buckets import parse_object_url
from neuromirror.sources.dandi.metadata_shards import MetadataShards
from neuromirror.sources.dandi.objects import ObjectReply
from neuromirror.sources.dandi.paging import read_pages
from neuromirror.sources.dandi.rows import BlobRow, parse_row
from neuromirror.sources.dandi.versions import fingerprint, parse_version_info
from neuromirror.sources.errors import UnexpectedReplyError
from neuromirror.sources.ndstore.channel_info import level_shifts, parse_channels
from neuromirror.sources.ndstore.channel_info import volume_of as ndstore_volume
from neuromirror.sources.ndstore.documents import documents as ndstore_documents
from neuromirror.sources.ndstore.documents import facts as ndstore_facts
from neuromirror.sources.precomputed.encodings import encoding_of
from neuromirror.sources.precomputed.layer import is_volume, layer_profile
from neuromirror.sources.s3.aind import AIND
from neuromirror.sources.s3.aind import asset_facts as aind_facts
from neuromirror.sources.s3.aind import normalize as aind_kept
from neuromirror.sources.s3.docdb import all_times
from neuromirror.sources.s3.object_claims import _sha256, part_count
from neuromirror.sources.s3.sidecars import without_members, without_secrets
from neuromirror.sources.volumes.channels import check_size, plan_volume
from neuromirror.sources.volumes.ngff import zarr_documents
from neuromirror.sources.volumes.options import VolumeOptions

_UUID = "0123abcd-0000-4000-8000-0123456789ab"
_ASSET = {
    "asset_id": _UUID,
    "blob": _UUID,
    "zarr": None,
    "path": "sub-01/sub-01.nwb",
    "size": 18792,
    "created": "2021-08-31T20:33:00Z",
    "metadata": {
        "access": [{"status": "dandi:OpenAccess", "schemaKey": "AccessRequirements"}],
        "digest": {"dandi:sha2-256": "0" * 64, "dandi:dandi-etag": "0" * 32 + "-1"},
        "contentUrl": [
            f"https://api.dandiarchive.org/api/assets/{_UUID}/download/",
            "https://dandiarchive.s3.amazonaws.com/blobs/012/3ab/0123?versionId=x",
        ],
    },
}


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


_INFO = {
    "version": "0.210831.2033",
    "name": "A title",
    "asset_count": 1,
    "size": 18792,
    "created": "2021-08-31T20:33:00Z",
    "modified": "2021-08-31T20:33:00Z",
    "status": "Valid",
    "dandiset": {"identifier": "000027", "embargo_status": "OPEN"},
    "metadata": {
        "name": "A title",
        "url": "https://dandiarchive.org/dandiset/000027/0.210831.2033",
        "license": ["spdx:CC-BY-4.0"],
        "citation": "Doe, Jane (2021) https://u:p@example.org/?X-Amz-Signature=0",
        "contributor": [{"name": "Doe, Jane", "roleName": ["dcite:Author"]}],
    },
}


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


_DESCRIPTION = {
    "schema_version": "1.0.0",
    "name": "ecephys_625749_2022-08-03_15-15-06",
    "subject_id": "625749",
    "modality": [{"name": "Extracellular electrophysiology", "abbreviation": "ecephys"}],
    "investigators": [{"name": "Jane Doe, PhD"}, "A. Bee; C. Dee and Núñez, José"],
    "funding_source": [{"funder": {"name": "NIMH"}, "fundee": "x"}],
    "creation_date": "2022-08-03",
    "creation_time": "15:15:06",
    "platform": {"abbreviation": "ecephys"},
    "input_data_name": "s3://bucket/ecephys_1_2022-01-01_00-00-00",
    "processing_pipeline": {"data_processes": [{"name": "sorting", "token": "abcdef"}]},
    "url": "https://user:secret@example.org/?X-Amz-Signature=abc&x=1",
}


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


@target(
    "people", seeds=fixed_seeds("Doe, Jane; José Núñez, PhD and A. B. Smith Jr. & X"), kind="text"
)
def people(data: bytes) -> None:
    """Names of several people in one text."""
    for name in split_person_names(data.decode("utf-8", "replace")):
        without_degrees(name)
        check_agreement(name.strip() != "", "an empty name")


_BOSS: dict[str, Any] = {
    "collection": {"name": "c", "description": "x", "experiments": ["e"]},
    "experiment": {
        "name": "e",
        "num_hierarchy_levels": 3,
        "hierarchy_method": "anisotropic",
        "num_time_samples": 2,
        "time_step": 1,
        "time_step_unit": "seconds",
        "coord_frame": "f",
    },
    "channel": {
        "name": "ch",
        "description": "a channel",
        "type": "image",
        "datatype": "uint8",
        "base_resolution": 0,
        "sources": ["em"],
        "downsample_status": "DOWNSAMPLED",
        "storage_type": "cloudvol",
        "bucket": "bossdb-open-data",
        "cv_path": "/c/e/ch",
    },
    "frame": {
        "name": "f",
        "voxel_unit": "nanometers",
        **{f"{axis}_start": 0 for axis in "xyz"},
        **{f"{axis}_stop": 100 for axis in "xyz"},
        **{f"{axis}_voxel_size": 4 for axis in "xyz"},
    },
    "downsample": {"voxel_size": {"0": [4, 4, 40]}, "extent": {"0": [100, 100, 100]}},
    "metadata": {"doi": "10.60533/boss-2021-abcd", "PI": "Jane Doe", "license": "CC-BY"},
}


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
    if not all(isinstance(one, dict) for one in parts.values()):
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


@target(
    "boss-names",
    NeuromirrorError,
    seeds=fixed_seeds(json.dumps({"collections": ["a", "b c"], "keys": ["k"], "value": "v"})),
    kind="json",
)
def boss_names(data: bytes) -> None:
    """Lists of names of a BOSS, as intern reads them."""
    document = _json(data)
    client = _boss_client()
    with (
        patch.object(client, "_fetch_json", lambda _: document),
        patch.object(client, "_json", lambda _: document),
    ):
        client._remote = None
        for ask in (
            client.collections,
            lambda: client.experiments("c"),
            lambda: client.channels("c", "e"),
            lambda: client.metadata(["c"]),
            lambda: client.collection("c"),
            lambda: client.frame("f"),
            lambda: client.channel("c", "e", "ch"),
        ):
            with suppress(NeuromirrorError):
                ask()


@cache
def _boss_client() -> BossClient:
    return BossClient(_FixedReplies([]), "https://api.example.org/v1", None)


_NDSTORE: dict[str, Any] = {
    "project": {"name": "p", "description": "x", "host": "localhost", "dbname": "d"},
    "dataset": {
        "resolutions": [0, 1],
        "imagesize": {"0": [100, 100, 10], "1": [50, 50, 10]},
        "offset": {"0": [0, 0, 1], "1": [0, 0, 1]},
        "voxelres": {"0": [4.0, 4.0, 40.0], "1": [8.0, 8.0, 40.0]},
        "cube_dimension": {"0": [64, 64, 64]},
        "timerange": [0, 0],
    },
    "channels": {
        "image": {
            "channel_type": "image",
            "datatype": "uint8",
            "resolution": 0,
            "propagate": 2,
            "readonly": 1,
            "timerange": [0, 1],
            "description": "image",
        }
    },
}


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


_LAYER: dict[str, Any] = {
    "@type": "neuroglancer_multiscale_volume",
    "type": "segmentation",
    "data_type": "uint64",
    "num_channels": 1,
    "scales": [
        {
            "key": "4_4_40",
            "size": [100, 100, 10],
            "chunk_sizes": [[64, 64, 16]],
            "encoding": "raw",
            "resolution": [4, 4, 40],
            "voxel_offset": [0, 0, 0],
        }
    ],
    "description": "A layer; token=abc",
    "sources": ["precomputed://s3://bucket/layer", "s3://bucket/other"],
}


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


@target(
    "docdb",
    NeuromirrorError,
    seeds=fixed_seeds(json.dumps([[{"location": "s3://b/a", "last_modified": "x"}], []])),
    kind="json",
)
def docdb(data: bytes) -> None:
    """Pages of records of AIND's DocDB."""
    replies = _json(data)
    all_times(
        _FixedReplies(replies if isinstance(replies, list) else [replies]),
        "https://x.example.org/",
        "s3://b",
    )


_HEADERS = {
    "Content-Length": "5",
    "Content-Encoding": "gzip, aws-chunked",
    "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
    "x-amz-version-id": "v" * 32,
    "x-amz-checksum-sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    "ETag": '"d41d8cd98f00b204e9800998ecf8427e-2"',
}


_table = cache(BlobTable)


@target("object-headers", seeds=fixed_seeds(json.dumps(_HEADERS)), kind="json")
def object_headers(data: bytes) -> None:
    """Headers of objects, and ETags in listings, as they are kept."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(document, dict) or not all(isinstance(one, str) for one in document.values()):
        return
    headers = case_insensitive(document)
    reply = ObjectReply.of(ResponseHead(200, headers))
    check_agreement(reply.size is None or reply.size >= 0, reply)
    encoding_of(headers)
    _sha256(headers)
    parse_http_date(headers.get("Date", ""))
    etag, table, blob = headers.get("ETag", "").strip('"'), _table(), UUID(int=1)
    table._shards[0].clear()
    row = ObjectRow(b"k", 5, etag, datetime.now(UTC), version_id=headers.get("x-amz-version-id"))
    part_count(row)
    if table.add(blob, row):
        found = table.get(blob)
        check_agreement(found is not None and found.etag == etag, etag, found)
