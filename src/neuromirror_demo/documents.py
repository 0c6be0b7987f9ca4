"""The archive's JSON documents, in the shapes of the dandi-archive API (schema 0.7.0)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from neuromirror_demo.archive import Archive
from neuromirror_demo.dandi_bucket import BUCKET
from neuromirror_demo.nwb import parse_recipe, session_start
from neuromirror_demo.records import (
    Asset,
    Dandiset,
    DandisetVersion,
    VersionSummary,
    Zarr,
    fixed_uuid,
)
from neuromirror_demo.templates import filled, read_data

Json = dict[str, Any]

DOI_PREFIX = "10.5072"
"""DataCite's test prefix, because the demo must not claim a real DOI."""


def api_time(moment: datetime) -> str:
    """Format ``2026-11-21T09:04:14.321699Z``, always with six decimals."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True, slots=True)
class DandiDocuments:
    """Returns the documents of one archive; ``base`` and ``s3`` are its two URLs."""

    archive: Archive
    base: str
    s3: str

    @property
    def api(self) -> str:
        """The URL of the API, without a final slash."""
        return f"{self.base}/api"

    def info(self) -> Json:
        """Return ``/info/``."""
        document: Json = filled(read_data("dandi")["info"], {"base": self.base})
        return document

    # -- dandisets and versions

    def summary(self, dandiset: Dandiset, version: DandisetVersion) -> VersionSummary:
        """Return the current summary, or the frozen one."""
        frozen = self.archive.frozen_summaries
        if frozen is not None:
            return frozen.get((dandiset.identifier, version.label), version.summary)
        return version.summary

    def version_brief(
        self, dandiset: Dandiset, version: DandisetVersion, *, full: bool = True
    ) -> Json:
        """Return a version inside a dandiset; without ``full`` as in the list of all dandisets."""
        summary = self.summary(dandiset, version)
        row: Json = {
            "version": version.label,
            "name": version.description.title,
            "asset_count": summary.asset_count,
            "active_uploads": 0,
            "size": summary.size,
            "status": summary.status,
            "created": api_time(version.created),
            "modified": api_time(summary.modified),
            "release_notes": "",
        }
        if not full:
            del row["active_uploads"], row["release_notes"]
        return row

    def dandiset_brief(self, dandiset: Dandiset) -> Json:
        """Return a dandiset without its versions."""
        return {
            "identifier": dandiset.identifier,
            "created": api_time(dandiset.created),
            "modified": api_time(dandiset.modified),
            "contact_person": dandiset.draft.description.contributors[0][0],
            "embargo_status": "EMBARGOED" if dandiset.embargoed else "OPEN",
            "star_count": 0,
            "is_starred": False,
        }

    def dandiset(self, dandiset: Dandiset, *, full: bool = True) -> Json:
        """Return ``/dandisets/<id>/``; without ``full`` a row of the list of all dandisets."""
        newest = dandiset.published[-1] if dandiset.published else None
        return {
            **self.dandiset_brief(dandiset),
            "most_recent_published_version": (
                None if newest is None else self.version_brief(dandiset, newest, full=full)
            ),
            "draft_version": self.version_brief(dandiset, dandiset.draft, full=full),
        }

    def version_row(self, dandiset: Dandiset, version: DandisetVersion) -> Json:
        """Return a row of ``/versions/``."""
        row = self.version_brief(dandiset, version)
        notes = row.pop("release_notes")
        return {**row, "dandiset": self.dandiset_brief(dandiset), "release_notes": notes}

    def version_info(self, dandiset: Dandiset, version: DandisetVersion) -> Json:
        """Return ``/versions/<v>/info/``."""
        return {
            **self.version_row(dandiset, version),
            "asset_validation_errors": [],
            "version_validation_errors": [],
            "metadata": self.version_metadata(dandiset, version),
            "contact_person": version.description.contributors[0][0],
        }

    def version_metadata(self, dandiset: Dandiset, version: DandisetVersion) -> Json:
        """Return ``/versions/<v>/``: the Dandiset document."""
        about, published = version.description, version.published_by
        doi = f"{DOI_PREFIX}/dandi.{dandiset.identifier}/{version.label}"
        url = f"{self.base}/dandiset/{dandiset.identifier}/{version.label}"
        link = url if published is None else f"https://doi.org/{doi}"
        authors = "; ".join(name for name, _ in about.contributors)
        draft = f"{self.api}/dandisets/{dandiset.identifier}/versions/draft/assets/"
        manifest = f"{self.s3}/{BUCKET}/{_manifest_folder(dandiset, version)}/assets.yaml"
        roles = ["dcite:ContactPerson", "dcite:Author"]
        values = {
            "id": dandiset.identifier,
            "label": version.label,
            "base": self.base,
            "doi": doi,
            "url": url,
            "title": about.title,
            "text": about.text,
            "license": about.license,
            "keywords": list(about.keywords),
            "access": self._access(dandiset, dandiset.embargoed),
            "citation": (
                f"{authors} ({version.created.year}) {about.title} (Version {version.label})"
                f" [Data set]. DANDI Archive. {link}"
            ),
            "contributors": [
                {
                    "name": name,
                    "email": email,
                    "roleName": roles[min(number, 1) :],
                    "schemaKey": "Person",
                    "includeInCitation": True,
                }
                for number, (name, email) in enumerate(about.contributors)
            ],
            "created": dandiset.created.isoformat(),
            "published_by": published,
            "published": None if published is None else published["startDate"],
            "summary": self._assets_summary(dandiset, version),
            "manifest": draft if published is None else manifest,
        }
        document: Json = filled(read_data("dandi")["dandiset"], values)
        if published is None:
            for name in ("doi", "publishedBy", "datePublished"):
                del document[name]
        return document

    def manifests(self, dandiset: Dandiset, version: DandisetVersion) -> dict[str, bytes]:
        """Return the objects written to the bucket at publication, by key; YAML is plain JSON."""
        folder = _manifest_folder(dandiset, version)
        about = json.dumps(self.version_metadata(dandiset, version), indent=1).encode()
        assets = [self.asset_metadata(asset) for asset in version.assets.values()]
        listed = json.dumps(assets, indent=1).encode()
        documents = {"dandiset": about, "assets": listed}
        return {
            f"{folder}/{name}.{kind}": data
            for name, data in documents.items()
            for kind in ("yaml", "jsonld")
        }

    # -- assets and Zarrs

    def asset_row(self, asset: Asset, *, metadata: bool = False) -> Json:
        """Return a row of an asset list; with ``metadata`` also ``/assets/<id>/info/``."""
        row: Json = {
            "asset_id": asset.asset_id,
            "blob": None if asset.blob is None else asset.blob.blob_id,
            "zarr": None if asset.zarr is None else asset.zarr.zarr_id,
            "path": asset.path,
            "size": asset.size,
            "created": api_time(asset.created),
            "modified": api_time(asset.modified),
        }
        if metadata:
            row["metadata"] = self.asset_metadata(asset)
        return row

    def asset_metadata(self, asset: Asset) -> Json:
        """Return ``/assets/<id>/``: the Asset document."""
        digest: dict[str, str | None]
        if asset.zarr is not None:
            digest = {"dandi:dandi-zarr-checksum": asset.zarr.checksum}
            content_type = "application/x-zarr"
        else:
            blob = asset.blob
            assert blob is not None
            digest = {"dandi:dandi-etag": blob.etag}
            if blob.sha256_known:
                digest["dandi:sha2-256"] = blob.sha256
            content_type = blob.content_type
        dandiset = self.archive.dandisets[asset.dandiset]
        values = {
            "id": asset.asset_id,
            "base": self.base,
            "path": asset.path,
            "size": asset.size,
            "digest": digest,
            "access": self._access(dandiset, self.archive.is_embargoed(asset)),
            "object": self.content_url(asset),
            "content_type": content_type,
        }
        document: Json = filled(read_data("dandi")["asset"], values)
        if asset.published_by is not None:
            document["publishedBy"] = asset.published_by
            document["datePublished"] = asset.published_by["startDate"]
        if asset.path.endswith(".nwb"):
            document.update(self._nwb_metadata(asset))
        return document

    def content_url(self, asset: Asset) -> str:
        """Return the plain S3 URL of a blob, or the prefix of a Zarr's objects."""
        if asset.zarr is not None:
            return f"{self.s3}/{BUCKET}/{asset.zarr.key()}"
        assert asset.blob is not None
        return f"{self.s3}/{BUCKET}/{asset.blob.key}"

    def zarr_row(self, zarr: Zarr) -> Json:
        """Return ``/zarr/<id>/``."""
        return {
            "name": zarr.name,
            "dandiset": zarr.dandiset,
            "zarr_id": zarr.zarr_id,
            "status": "Pending" if zarr.checksum is None else "Complete",
            "checksum": zarr.checksum,
            "file_count": zarr.file_count,
            "size": zarr.size,
        }

    # -- helpers

    def _access(self, dandiset: Dandiset, embargoed: bool) -> list[Json]:
        if not embargoed:
            return [{"status": "dandi:OpenAccess", "schemaKey": "AccessRequirements"}]
        until = (dandiset.created + timedelta(days=730)).date().isoformat()
        return [
            {
                "status": "dandi:EmbargoedAccess",
                "schemaKey": "AccessRequirements",
                "embargoedUntil": until,
            }
        ]

    def _assets_summary(self, dandiset: Dandiset, version: DandisetVersion) -> Json:
        summary = self.summary(dandiset, version)
        counts: Json = {
            "schemaKey": "AssetsSummary",
            "numberOfBytes": summary.size,
            "numberOfFiles": summary.asset_count,
        }
        if not version.assets:
            return counts
        recipes = [parse_recipe(path) for path in version.assets if path.endswith(".nwb")]
        subjects = {recipe.subject for recipe in recipes}
        standards = []
        if subjects:
            counts["numberOfSubjects"] = len(subjects)
            standards.append(_standard("Neurodata Without Borders (NWB)", "RRID:SCR_015242"))
        if any(asset.zarr is not None for asset in version.assets.values()):
            standards.append(_standard("OME/NGFF Standard", "DOI:10.25504/FAIRsharing.9af712"))
        return {
            **counts,
            "species": [read_data("dandi")["species"]] if subjects else [],
            "dataStandard": standards,
            "variableMeasured": [],
            **_techniques(recipe.kind for recipe in recipes),
        }

    def _nwb_metadata(self, asset: Asset) -> Json:
        recipe = parse_recipe(asset.path)
        start = session_start(recipe)
        values = {
            "base": self.base,
            "seen": api_time(asset.created - timedelta(seconds=2)),
            "session": recipe.session,
            "subject": recipe.subject,
            "started": start.isoformat(),
            "ended": (start + timedelta(seconds=40)).isoformat(),
            "activity": f"urn:uuid:{fixed_uuid('metadata', asset.asset_id)}",
        }
        return {**filled(read_data("dandi")["nwb"], values), **_techniques([recipe.kind])}


def _techniques(kinds: Iterable[str]) -> Json:
    """Return approach and measurement technique of recordings, as dandi-cli writes them."""
    known = read_data("dandi")["techniques"]
    found = [known[kind] for kind in sorted(set(kinds).intersection(known))]
    return {
        name: [row for one in found for row in one[name]]
        for name in ("approach", "measurementTechnique")
    }


def _standard(name: str, identifier: str) -> Json:
    return {"name": name, "schemaKey": "StandardsType", "identifier": identifier}


def _manifest_folder(dandiset: Dandiset, version: DandisetVersion) -> str:
    return f"dandisets/{dandiset.identifier}/{version.label}"
