"""Metadata documents of AIND assets, in the formats of several versions of aind-data-schema.

``0`` stands for versions up to 0.3 (2022), ``1`` for 0.5 to 1.4 (2023 to early 2025), ``2`` for
2.x. Their values are invented.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from neuromirror_demo.records import fixed_uuid
from neuromirror_demo.templates import filled, read_data

Json = dict[str, Any]

_SOURCE = "https://raw.githubusercontent.com/AllenNeuralDynamics/aind-data-schema/main/src"
_MODALITIES = {
    "ecephys": "Extracellular electrophysiology",
    "behavior": "Behavior",
    "behavior-videos": "Behavior videos",
    "SPIM": "Selective plane illumination microscopy",
}
_PLATFORMS = {
    "ecephys": "Electrophysiology platform",
    "behavior": "Behavior platform",
    "exaSPIM": "ExaSPIM platform",
    "HCR": "Hybridization chain reaction platform",
}


@dataclass(frozen=True, slots=True)
class AssetDescription:
    """An asset as its documents describe it.

    ``generation`` is 0, 1 or 2; ``inputs`` and ``process`` are the input assets and the process of
    a derived asset.
    """

    name: str
    generation: int
    subject: str
    created: datetime
    modalities: tuple[str, ...] = ("ecephys",)
    platform: str | None = "ecephys"
    project: str = "Demo of Brain Wide Circuit Dynamics"
    investigators: tuple[str, ...] = ("Jane Doe",)
    funder: str = "Allen Institute"
    inputs: tuple[str, ...] = ()
    process: str = ""
    links: bool = True
    """Whether the documents name the inputs; otherwise only the asset's name does."""

    @property
    def derived(self) -> bool:
        """Whether the asset was derived from other assets."""
        return bool(self.process)


def sidecars(asset: AssetDescription) -> dict[str, Json]:
    """Return all root documents except ``metadata.nd.json``, by file name."""
    created = asset.created
    modalities = [{"name": _MODALITIES[one], "abbreviation": one} for one in asset.modalities]
    values = {
        "name": asset.name,
        "subject": asset.subject,
        "project": asset.project,
        "funder": asset.funder,
        "created": created,
        "month_before": created - timedelta(days=30),
        "started": created - timedelta(hours=3),
        "level": "derived" if asset.derived else "raw",
        "process": asset.process,
        "kind": "Spike sorting" if "sorted" in asset.process else "Other",
        "input": asset.inputs[0] if asset.inputs else "",
        "inputs": list(asset.inputs) if asset.links and asset.inputs else None,
        "modality": asset.modalities[0],
        "modalities": modalities,
        "first": modalities[0],
        "platform": {
            "name": _PLATFORMS.get(asset.platform or ""),
            "abbreviation": asset.platform,
        },
    }
    documents: dict[str, Json] = filled(read_data("sidecars")[asset.generation], values)
    description = documents["data_description.json"]
    if asset.generation:
        (one,) = description["investigators"]
        description["investigators"] = [{**one, "name": name} for name in asset.investigators]
    if not (asset.inputs and asset.links):
        for name in ("input_data", "input_data_name"):
            description.pop(name, None)
    unused = ("session", "rig", "acquisition", "instrument") if asset.derived else ("processing",)
    for name in unused:
        documents.pop(f"{name}.json", None)
    if not asset.derived:
        description.pop("process_name", None)
    return documents


def record(asset: AssetDescription, location: str, modified: datetime, documents: Json) -> Json:
    """Return ``metadata.nd.json``, which is also the record in the document database."""
    stem = {name.removesuffix(".json"): body for name, body in documents.items()}
    common = {
        "_id": fixed_uuid("aind", asset.name),
        "name": asset.name,
        "location": location,
        "describedBy": f"{_SOURCE}/aind_data_schema/core/metadata.py",
        "schema_version": "2.0.41" if asset.generation == 2 else "1.1.1",
    }
    if asset.generation == 2:
        return {
            **common,
            "object_type": "Metadata",
            "_created": _moment(asset.created),
            "_last_modified": _moment(modified),
            "other_identifiers": {"Code Ocean": [fixed_uuid("code ocean", asset.name)]},
            **stem,
        }
    return {
        **common,
        "created": _moment(asset.created),
        "last_modified": _moment(modified),
        "metadata_status": "Valid",
        "external_links": {"Code Ocean": [fixed_uuid("code ocean", asset.name)]},
        **stem,
    }


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond:06d}Z"
