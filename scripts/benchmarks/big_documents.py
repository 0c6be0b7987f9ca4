"""The documents of the synthetic archive's API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from benchmarks.big_bucket import Keyspace
from benchmarks.big_keys import BUCKET, blob_key
from benchmarks.big_plan import ArchivePlan, BlobFacts, DandisetPlan, as_uuid, blob_facts
from neuromirror_demo.documents import metadata_activity, participant

LABEL: Final = "0.240304.1200"
"""The label of every published version."""

_TIMES: Final = {
    "created": "2024-03-01T09:07:13.370588Z",
    "modified": "2024-03-05T10:21:44.000120Z",
}
_CONTEXT: Final = (
    "https://raw.githubusercontent.com/dandi/schema/master/releases/0.7.0/context.json"
)


class BigDocuments:
    """Returns the API's JSON; ``base`` and ``s3`` are the two URLs."""

    def __init__(self, plan: ArchivePlan, keys: Keyspace, base: str, s3: str) -> None:
        self._plan = plan
        self._base = base
        self._s3 = f"{s3}/{BUCKET}"
        self._keys = keys
        self._checksums: dict[int, str] = {}
        self._sizes: dict[int, int] = {}
        self._rows = {published: self._row_template(published) for published in (False, True)}
        self._zarr_row = _template(
            self._asset(
                {"dandi:dandi-zarr-checksum": "%(checksum)s"},
                "application/x-zarr",
                f"{self._s3}/zarr/%(zarr)s/",
            )
            | {"zarr": "%(zarr)s"}
        )

    # -- dandisets and versions

    def info(self) -> dict[str, Any]:
        """Return ``/info/``."""
        return {
            "instance_config": {
                "instance_name": "BIG",
                "instance_identifier": None,
                "instance_url": f"{self._base}/",
                "doi_prefix": "10.5072",
                "licenses": ["spdx:CC0-1.0", "spdx:CC-BY-4.0"],
            },
            "schema_version": "0.7.0",
            "version": "0.0.0+big",
            "services": {"api": {"url": f"{self._base}/api"}},
            "cli-minimal-version": "0.74.0",
            "cli-bad-versions": [],
        }

    def size(self, one: DandisetPlan) -> int:
        """Return the bytes of all assets."""
        if one.number not in self._sizes:
            ids = self._plan.blobs
            blobs = range(one.first_blob, one.first_blob + one.blobs)
            total = sum(blob_facts(ids, ids.rank(number)).size for number in blobs)
            zarrs = range(one.first_zarr, one.first_zarr + one.zarrs)
            total += sum(self._keys.zarr(number).size for number in zarrs)
            self._sizes[one.number] = total
        return self._sizes[one.number]

    def version(self, one: DandisetPlan, label: str) -> dict[str, Any]:
        """Return a version as in lists."""
        return {
            "version": label,
            "name": f"Synthetic dandiset {one.number + 1}",
            "asset_count": one.assets,
            "active_uploads": 0,
            "size": self.size(one),
            "status": "Valid",
            **_TIMES,
            "release_notes": "",
        }

    def brief(self, one: DandisetPlan) -> dict[str, Any]:
        """Return a dandiset without its versions."""
        return {
            "identifier": f"{one.number + 1:06d}",
            **_TIMES,
            "contact_person": "Doe, Jane",
            "embargo_status": "OPEN",
            "star_count": 0,
            "is_starred": False,
        }

    def dandiset(self, one: DandisetPlan) -> dict[str, Any]:
        """Return ``/dandisets/<id>/``, which is also a row of the list of all dandisets."""
        newest = self.version(one, LABEL) if one.published else None
        return {
            **self.brief(one),
            "most_recent_published_version": newest,
            "draft_version": self.version(one, "draft"),
        }

    def versions(self, one: DandisetPlan) -> list[dict[str, Any]]:
        """Return the rows of ``/versions/``."""
        labels = ["draft", LABEL] if one.published else ["draft"]
        return [{**self.version(one, label), "dandiset": self.brief(one)} for label in labels]

    def version_info(self, one: DandisetPlan, label: str) -> dict[str, Any]:
        """Return ``/versions/<v>/info/``."""
        return {
            **self.version(one, label),
            "dandiset": self.brief(one),
            "asset_validation_errors": [],
            "version_validation_errors": [],
            "metadata": self.metadata(one, label),
            "contact_person": "Doe, Jane",
        }

    def metadata(self, one: DandisetPlan, label: str) -> dict[str, Any]:
        """Return ``/versions/<v>/``."""
        identifier = f"{one.number + 1:06d}"
        return {
            "id": f"DANDI:{identifier}/{label}",
            "url": f"{self._base}/dandiset/{identifier}/{label}",
            "name": f"Synthetic dandiset {one.number + 1}",
            "access": [{"status": "dandi:OpenAccess", "schemaKey": "AccessRequirements"}],
            "license": ["spdx:CC-BY-4.0"],
            "version": label,
            "@context": _CONTEXT,
            "keywords": ["synthetic"],
            "schemaKey": "Dandiset",
            "identifier": f"DANDI:{identifier}",
            "contributor": [
                {
                    "name": "Doe, Jane",
                    "roleName": ["dcite:ContactPerson", "dcite:Author"],
                    "schemaKey": "Person",
                    "includeInCitation": True,
                }
            ],
            "description": "It was made up, for measurements.",
            "assetsSummary": {
                "schemaKey": "AssetsSummary",
                "numberOfBytes": self.size(one),
                "numberOfFiles": one.assets,
            },
            "schemaVersion": "0.7.0",
        }

    # -- assets and Zarrs

    def asset_rows(self, one: DandisetPlan, start: int, end: int, *, metadata: bool) -> str:
        """Return rows of an asset list, as JSON, separated by commas."""
        ids, rows = self._plan.blobs, []
        template = self._rows[one.published] if metadata else _PLAIN_ROW
        for number in range(start, min(end, one.blobs)):
            blob = blob_facts(ids, ids.rank(one.first_blob + number))
            rows.append(template % _blob_fields(blob, number))
        for number in range(max(start, one.blobs), min(end, one.assets)):
            rows.append(self._zarr_asset(one, number - one.blobs, metadata=metadata))
        return ",".join(rows)

    def _zarr_asset(self, one: DandisetPlan, number_in_dandiset: int, *, metadata: bool) -> str:
        number = one.first_zarr + number_in_dandiset
        rank = self._plan.zarrs.rank(number)
        drawn = self._plan.zarrs.drawn(rank)
        fields = {
            "asset": as_uuid(drawn[32:64]),
            "zarr": self._plan.zarrs.uuid(rank, drawn),
            "path": zarr_path(number_in_dandiset),
            "size": self._keys.zarr(number).size,
            "checksum": self.checksum(number) if metadata else "",
        }
        if metadata:
            return self._zarr_row % fields
        return (_PLAIN_ROW % {**fields, "blob": ""}).replace(
            '"blob":"","zarr":null', f'"blob":null,"zarr":"{fields["zarr"]}"'
        )

    def checksum(self, number: int) -> str:
        """Return the true checksum of a Zarr, computed once."""
        if number not in self._checksums:
            self._checksums[number] = self._keys.zarr(number).checksum()
        return self._checksums[number]

    def zarr(self, zarr_id: str) -> dict[str, Any] | None:
        """Return ``/zarr/<id>/``; None for an unknown id."""
        rank = self._plan.zarrs.find(zarr_id)
        if rank is None:
            return None
        number = self._plan.zarrs.number(rank)
        one = self._plan.dandiset_of_zarr(number)
        return {
            "name": zarr_path(number - one.first_zarr),
            "dandiset": f"{one.number + 1:06d}",
            "zarr_id": zarr_id,
            "status": "Complete",
            "checksum": self.checksum(number),
            "file_count": self._plan.entries[number],
            "size": self._keys.zarr(number).size,
        }

    def _row_template(self, published: bool) -> str:
        document = self._asset(
            {"dandi:dandi-etag": "%(etag)s", "dandi:sha2-256": "%(sha256)s"},
            "application/x-nwb",
            f"{self._s3}/%(key)s",
        )
        metadata = document["metadata"]
        metadata.update(_nwb_metadata())
        if published:
            metadata |= _publication_json()
        return _template(document | {"blob": "%(blob)s"})

    def _asset(self, digest: Mapping[str, str], kind: str, url: str) -> dict[str, Any]:
        return {
            "asset_id": "%(asset)s",
            "blob": None,
            "zarr": None,
            "path": "%(path)s",
            "size": "%(size)d",
            **_TIMES,
            "metadata": {
                "id": "dandiasset:%(asset)s",
                "path": "%(path)s",
                "access": [{"status": "dandi:OpenAccess", "schemaKey": "AccessRequirements"}],
                "digest": digest,
                "@context": _CONTEXT,
                "schemaKey": "Asset",
                "contentUrl": [f"{self._base}/api/assets/%(asset)s/download/", url],
                "identifier": "%(asset)s",
                "contentSize": "%(size)d",
                "schemaVersion": "0.7.0",
                "encodingFormat": kind,
            },
        }


def zarr_path(number: int) -> str:
    """Return the path of a Zarr by its number in its dandiset; it sorts after all blobs."""
    return f"zarr/sub-{number:06d}_photo.ome.zarr"


def _blob_fields(blob: BlobFacts, number: int) -> dict[str, object]:
    subject, session = divmod(number, 4)
    name = f"sub-{subject:06d}"
    return {
        "asset": blob.asset_id,
        "blob": blob.blob_id,
        "key": blob_key(blob.blob_id),
        "path": f"{name}/{name}_ses-{session:02d}_ecephys.nwb",
        "size": blob.size,
        "etag": blob.etag,
        "sha256": blob.sha256,
        "subject": name,
        "session": f"{name}-{session:02d}",
    }


def _template(document: object) -> str:
    text = json.dumps(document, separators=(",", ":"))
    return text.replace('"%(size)d"', "%(size)d")


_PLAIN_ROW: Final = _template(
    {
        "asset_id": "%(asset)s",
        "blob": "%(blob)s",
        "zarr": None,
        "path": "%(path)s",
        "size": "%(size)d",
        **_TIMES,
    }
)


@lru_cache(1)
def _publication_json() -> dict[str, Any]:
    moment = "2024-03-04T12:00:00.120457+00:00"
    return {
        "publishedBy": {
            "id": "urn:uuid:8267a2ec-bbb9-4b92-92a4-a5b1ab0f75fc",
            "name": "DANDI publish",
            "startDate": moment,
            "endDate": moment,
            "schemaKey": "PublishActivity",
            "wasAssociatedWith": [
                {
                    "id": "urn:uuid:f5aa3c9c-55c6-4f2d-a1bb-98fd3f3e3e5e",
                    "name": "DANDI API",
                    "version": "0.1.0",
                    "schemaKey": "Software",
                    "identifier": "RRID:SCR_017571",
                }
            ],
        },
        "datePublished": moment,
    }


@lru_cache(1)
def _nwb_metadata() -> dict[str, Any]:
    """Return metadata as long as those of a real NWB file, about 2 kB."""
    start = "2024-02-01T10:00:00-05:00"
    standard = {"schemaKey": "StandardsType", "identifier": "RRID:SCR_015242"}
    return {
        "approach": [{"name": "electrophysiological approach", "schemaKey": "ApproachType"}],
        "keywords": ["hippocampus", "place cells", "synthetic"],
        "dateModified": start,
        "blobDateModified": start,
        "variableMeasured": [
            {"value": "ElectricalSeries", "schemaKey": "PropertyValue"},
            {"value": "ElectrodeGroup", "schemaKey": "PropertyValue"},
            {"value": "LFP", "schemaKey": "PropertyValue"},
            {"value": "Units", "schemaKey": "PropertyValue"},
        ],
        "measurementTechnique": [
            {"name": "spike sorting technique", "schemaKey": "MeasurementTechniqueType"},
            {"name": "surgical technique", "schemaKey": "MeasurementTechniqueType"},
            {"name": "multi electrode recording", "schemaKey": "MeasurementTechniqueType"},
        ],
        "dataStandard": [{"name": "Neurodata Without Borders (NWB)", **standard}],
        "wasGeneratedBy": [
            {
                "name": "%(session)s",
                "startDate": start,
                "endDate": start,
                "schemaKey": "Session",
                "identifier": "%(session)s",
                "description": "A synthetic session: nothing was recorded.",
            },
            metadata_activity(
                "urn:uuid:%(asset)s", start, "Metadata made up by the synthetic archive"
            ),
        ],
        "wasAttributedTo": [participant("%(subject)s")],
    }
