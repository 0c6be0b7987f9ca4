"""Metadata documents of AIND assets, in the formats of several versions of aind-data-schema.

``0`` stands for versions up to 0.3 (2022), ``1`` for 0.5 to 1.4 (2023 to early 2025), ``2`` for
2.x. Their values are invented.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from neuromirror_demo.records import fixed_uuid

Json = dict[str, Any]

_SOURCE = "https://raw.githubusercontent.com/AllenNeuralDynamics/aind-data-schema/main/src"
_ROR = {"name": "Research Organization Registry", "abbreviation": "ROR"}
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
    make = (_generation_1, _generation_2, _generation_3)[asset.generation]
    documents = make(asset)
    if asset.derived:
        documents["processing"] = _processing(asset)
    if asset.generation:
        documents["quality_control"] = _quality(asset)
    return {f"{name}.json": body for name, body in documents.items()}


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


def _described_by(asset: AssetDescription, name: str, version: str) -> Json:
    core = "" if asset.generation == 0 else "core/"
    about: Json = {
        "describedBy": f"{_SOURCE}/aind_data_schema/{core}{name}.py",
        "schema_version": version,
    }
    if asset.generation == 2:
        about = {"object_type": name.replace("_", " ").capitalize(), **about}
    return about


def _modality(name: str) -> Json:
    return {"name": _MODALITIES[name], "abbreviation": name}


def _organization(name: str) -> Json:
    return {
        "name": name,
        "abbreviation": "AI",
        "registry": _ROR,
        "registry_identifier": "03cpe7c52",
    }


def _generation_1(asset: AssetDescription) -> dict[str, Json]:
    description: Json = {
        **_described_by(asset, "data_description", "0.3.0"),
        "license": "CC-BY-4.0",
        "creation_time": f"{asset.created:%H:%M:%S}",
        "creation_date": f"{asset.created:%Y-%m-%d}",
        "name": asset.name,
        "institution": "AIND",
        "funding_source": [{"funder": asset.funder, "grant_number": None, "fundee": None}],
        "data_level": "derived data" if asset.derived else "raw data",
        "group": "ephys",
        "project_name": asset.project,
        "project_id": None,
        "restrictions": None,
        "modality": [asset.modalities[0]],
        "subject_id": asset.subject,
    }
    if asset.inputs and asset.links:
        description["input_data"] = {
            **_described_by(asset, "data_description", "0.3.0"),
            "name": asset.inputs[0],
            "data_level": "raw data",
            "subject_id": asset.subject,
        }
    return {
        "data_description": description,
        "subject": {
            **_described_by(asset, "subject", "0.2.2"),
            "species": "Mus musculus",
            "subject_id": asset.subject,
            "sex": "Female",
            "date_of_birth": "2022-03-15",
            "genotype": "Demo-Cre/wt",
        },
        "procedures": _procedures(asset, "0.5.4"),
        **({} if asset.derived else {"session": _session(asset, "ephys_session", "0.1.8")}),
    }


def _generation_2(asset: AssetDescription) -> dict[str, Json]:
    description: Json = {
        **_described_by(asset, "data_description", "1.0.4"),
        "license": "CC-BY-4.0",
        "platform": {"name": _PLATFORMS[asset.platform or ""], "abbreviation": asset.platform},
        "subject_id": asset.subject,
        "creation_time": f"{asset.created:%Y-%m-%dT%H:%M:%S}-07:00",
        "label": None,
        "name": asset.name,
        "institution": _organization("Allen Institute for Neural Dynamics"),
        "funding_source": [
            {"funder": _organization(asset.funder), "grant_number": None, "fundee": None}
        ],
        "data_level": "derived" if asset.derived else "raw",
        "group": None,
        "investigators": [
            {"name": name, "abbreviation": None, "registry": None, "registry_identifier": None}
            for name in asset.investigators
        ],
        "project_name": asset.project,
        "restrictions": None,
        "modality": [_modality(name) for name in asset.modalities],
        "related_data": [],
        "data_summary": None,
    }
    if asset.derived:
        description["process_name"] = asset.process
    if asset.inputs and asset.links:
        description["input_data_name"] = asset.inputs[0]
    documents = {
        "data_description": description,
        "subject": {
            **_described_by(asset, "subject", "1.0.3"),
            "subject_id": asset.subject,
            "sex": "Male",
            "date_of_birth": "2023-11-02",
            "genotype": "wt/wt",
            "species": {"name": "Mus musculus", "registry_identifier": "10090"},
        },
        "procedures": _procedures(asset, "1.2.1"),
    }
    if not asset.derived:
        documents["session"] = _session(asset, "session", "1.1.2")
        documents["rig"] = {**_described_by(asset, "rig", "1.1.1"), "rig_id": "447_demo_240101"}
    return documents


def _generation_3(asset: AssetDescription) -> dict[str, Json]:
    documents: dict[str, Json] = {
        "data_description": {
            **_described_by(asset, "data_description", "2.0.3"),
            "license": "CC-BY-4.0",
            "subject_id": asset.subject,
            "creation_time": f"{asset.created:%Y-%m-%dT%H:%M:%S}Z",
            "tags": ["demo"],
            "name": asset.name,
            "institution": _organization("Allen Institute for Neural Dynamics"),
            "funding_source": [
                {
                    "object_type": "Funding information",
                    "funder": _organization(asset.funder),
                    "grant_number": None,
                    "fundee": None,
                }
            ],
            "data_level": "derived" if asset.derived else "raw",
            "group": None,
            "investigators": [
                {"object_type": "Person", "name": name, "registry_identifier": None}
                for name in asset.investigators
            ],
            "project_name": asset.project,
            "restrictions": None,
            "modalities": [_modality(name) for name in asset.modalities],
            "source_data": list(asset.inputs) if asset.links and asset.inputs else None,
            "data_summary": None,
        },
        "subject": {
            **_described_by(asset, "subject", "2.0.4"),
            "subject_id": asset.subject,
            "subject_details": {
                "object_type": "Mouse subject",
                "sex": "Male",
                "date_of_birth": "2024-08-30",
                "genotype": "wt/wt",
                "species": {"name": "Mus musculus", "registry_identifier": "NCBI:txid10090"},
            },
            "notes": None,
        },
        "procedures": _procedures(asset, "2.0.6"),
    }
    if not asset.derived:
        documents["acquisition"] = {
            **_described_by(asset, "acquisition", "2.0.5"),
            "subject_id": asset.subject,
            "acquisition_start_time": f"{asset.created:%Y-%m-%dT%H:%M:%S}Z",
            "instrument_id": "447_demo",
            "acquisition_type": "Demo session",
        }
        documents["instrument"] = {
            **_described_by(asset, "instrument", "2.0.4"),
            "instrument_id": "447_demo",
            "modalities": [_modality(name) for name in asset.modalities],
        }
    return documents


def _procedures(asset: AssetDescription, version: str) -> Json:
    return {
        **_described_by(asset, "procedures", version),
        "subject_id": asset.subject,
        "subject_procedures": [
            {
                "procedure_type": "Surgery",
                "start_date": f"{asset.created - timedelta(days=30):%Y-%m-%d}",
                "procedures": [{"procedure_type": "Headframe", "headframe_type": "demo"}],
            }
        ],
        "specimen_procedures": [],
        "notes": None,
    }


def _session(asset: AssetDescription, name: str, version: str) -> Json:
    return {
        **_described_by(asset, name, version),
        "experimenter_full_name": ["Jane Doe"],
        "session_start_time": f"{asset.created:%Y-%m-%dT%H:%M:%S}-07:00",
        "subject_id": asset.subject,
        "session_type": "Demo session",
        "rig_id": "447_demo_240101",
    }


def _processing(asset: AssetDescription) -> Json:
    process: Json = {
        "name": "Spike sorting" if "sorted" in asset.process else "Other",
        "software_version": "0.1.0",
        "start_date_time": _moment(asset.created - timedelta(hours=3)),
        "end_date_time": _moment(asset.created),
        "code_url": "https://example.org/demo-pipeline",
        "parameters": {"sorter": "demo"},
    }
    if asset.generation == 0:
        return {**_described_by(asset, "processing", "0.2.1"), "data_processes": [process]}
    if asset.generation == 1:
        pipeline = {
            "data_processes": [process],
            "processor_full_name": "Jane Doe",
            "pipeline_version": "0.1.0",
        }
        return {**_described_by(asset, "processing", "1.1.4"), "processing_pipeline": pipeline}
    third = {
        "object_type": "Data process",
        "process_type": process["name"],
        "name": process["name"],
        "stage": "Processing",
        "code": {"object_type": "Code", "url": process["code_url"], "version": "0.1.0"},
        "start_date_time": process["start_date_time"],
        "end_date_time": process["end_date_time"],
    }
    return {
        **_described_by(asset, "processing", "2.0.3"),
        "data_processes": [third],
        "dependency_graph": {process["name"]: []},
    }


def _quality(asset: AssetDescription) -> Json:
    status = {"evaluator": "Automated", "status": "Pass", "timestamp": _moment(asset.created)}
    metric: Json = {"name": "Probe A drift", "value": "Low", "status_history": [status]}
    if asset.generation == 2:
        return {
            **_described_by(asset, "quality_control", "2.0.2"),
            "metrics": [
                {"object_type": "QC metric", "stage": "Raw data", "tags": {"probe": "A"}, **metric}
            ],
            "default_grouping": ["probe"],
            "notes": None,
        }
    evaluation = {
        "modality": _modality(asset.modalities[0]),
        "stage": "Raw data",
        "name": "Drift map",
        "metrics": [metric],
        "notes": "",
        "allow_failed_metrics": False,
    }
    return {
        **_described_by(asset, "quality_control", "1.2.2"),
        "evaluations": [evaluation],
        "notes": None,
    }
