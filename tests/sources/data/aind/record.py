"""Write the recorded sidecars beside this file with real releases of aind-data-schema.

``python record.py`` makes one virtual environment per release (needs the network once), and runs
this file again inside each, where it builds validated models and writes their JSON to
``<release>/<asset>/<sidecar>.json``. What the sidecars say is made up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RAW = "ecephys_600000_2022-06-28_10-31-30"
ACQUIRED = datetime(2022, 6, 28, 10, 31, 30, tzinfo=timezone(timedelta(hours=-7)))
PROCESSED = datetime(2023, 1, 2, 3, 4, 5, tzinfo=UTC)

Assets = dict[str, dict[str, str]]


def release_0_3() -> Assets:
    """2022: date and time apart, ``input_data`` is the description of the input."""
    from aind_data_schema import data_description as d
    from aind_data_schema.ephys.ephys_session import EphysSession, SessionType
    from aind_data_schema.processing import DataProcess, Processing, ProcessName
    from aind_data_schema.subject import Sex, Species, Subject

    common: dict[str, Any] = {
        "institution": d.Institution.AIND,
        "funding_source": [d.Funding(funder="NINDS")],
    }
    raw = d.RawDataDescription(
        modality="ecephys",
        subject_id="600000",
        creation_date=date(2022, 6, 28),
        creation_time=time(10, 31, 30),
        project_name="Brain Wide Circuits",
        **common,
    )
    derived = d.DerivedDataDescription(
        input_data=raw,
        process_name="sorted",
        creation_date=date(2023, 1, 2),
        creation_time=time(3, 4, 5),
        **common,
    )
    subject = Subject(
        species=Species.MUS_MUSCULUS,
        subject_id="600000",
        sex=Sex.FEMALE,
        date_of_birth=date(2022, 3, 1),
        genotype="wt/wt",
    )
    session = EphysSession(
        experimenter_full_name="Jane Doe",
        session_start_time=ACQUIRED,
        session_end_time=ACQUIRED + timedelta(hours=1),
        subject_id=600000,
        session_type=SessionType.TEST,
        rig_id="323_EPHYS1",
        probe_streams=[],
    )
    processing = Processing(
        data_processes=[
            DataProcess(
                name=ProcessName.SPIKE_SORTING,
                version="0.1",
                start_date_time=PROCESSED,
                end_date_time=PROCESSED,
                input_location="/data",
                output_location="/results",
                code_url="https://example.org/code",
                parameters={},
            )
        ]
    )
    return {
        raw.name: {
            "data_description": raw.json(),
            "subject": subject.json(),
            "ephys_session": session.json(),
        },
        derived.name: {"data_description": derived.json(), "processing": processing.json()},
    }


def release_0_13() -> Assets:
    """2023: ``investigators`` are texts, ``input_data_name`` names the input."""
    from aind_data_schema import data_description as d

    common: dict[str, Any] = {
        "institution": d.Institution.AIND,
        "funding_source": [d.Funding(funder="NIMH")],
        "investigators": ["Doe, Jane", "José Núñez, PhD", "Anna van der Berg"],
        "modality": [d.Modality.ECEPHYS],
    }
    raw = d.RawDataDescription(
        experiment_type=d.ExperimentType.ECEPHYS,
        subject_id="600000",
        creation_date=date(2022, 6, 28),
        creation_time=time(10, 31, 30),
        **common,
    )
    derived = d.DerivedDataDescription(
        input_data_name=raw.name,
        process_name="sorted",
        creation_date=date(2023, 1, 2),
        creation_time=time(3, 4, 5),
        experiment_type=d.ExperimentType.ECEPHYS,
        subject_id="600000",
        **common,
    )
    return {
        raw.name: {"data_description": raw.json()},
        derived.name: {"data_description": derived.json()},
    }


def release_1() -> Assets:
    """2024: times with zones, objects with names, ``input_data_name``."""
    from aind_data_schema.core.data_description import (
        DerivedDataDescription,
        Funding,
        RawDataDescription,
    )
    from aind_data_schema.core.processing import DataProcess, PipelineProcess, Processing
    from aind_data_schema.core.session import Session
    from aind_data_schema.core.subject import Subject
    from aind_data_schema_models.modalities import Modality
    from aind_data_schema_models.organizations import Organization
    from aind_data_schema_models.pid_names import PIDName
    from aind_data_schema_models.platforms import Platform
    from aind_data_schema_models.process_names import ProcessName

    raw = RawDataDescription(
        platform=Platform.ECEPHYS,
        subject_id="600000",
        creation_time=ACQUIRED,
        institution=Organization.AIND,
        funding_source=[Funding(funder=Organization.NINDS, grant_number="U19NS123714")],
        investigators=[PIDName(name="José Núñez, PhD"), PIDName(name="Doe, Jane")],
        project_name="Brain Wide Circuits",
        modality=[Modality.ECEPHYS, Modality.BEHAVIOR_VIDEOS],
    )
    derived = DerivedDataDescription.from_data_description(
        raw, process_name="sorted", creation_time=PROCESSED
    )
    subject = Subject(
        subject_id="600000",
        sex="Female",
        date_of_birth=date(2022, 3, 1),
        genotype="wt/wt",
        species={"name": "Mus musculus"},
        source=Organization.JAX,
    )
    session = Session(
        experimenter_full_name=["Jane Doe"],
        session_start_time=ACQUIRED,
        session_end_time=ACQUIRED + timedelta(hours=1),
        session_type="OPTO_TAGGING",
        rig_id="323_EPHYS1_20231003",
        subject_id="600000",
        data_streams=[],
        mouse_platform_name="disc",
        active_mouse_platform=False,
    )
    process = DataProcess(
        name=ProcessName.SPIKE_SORTING,
        start_date_time=PROCESSED,
        end_date_time=PROCESSED,
        input_location="/data",
        output_location="/results",
        code_url="https://example.org/code",
        parameters={},
    )
    pipeline = PipelineProcess(data_processes=[process], processor_full_name="Jane Doe")
    processing = Processing(processing_pipeline=pipeline)
    return {
        raw.name: {
            "data_description": raw.model_dump_json(),
            "subject": subject.model_dump_json(),
            "session": session.model_dump_json(),
        },
        derived.name: {
            "data_description": derived.model_dump_json(),
            "processing": processing.model_dump_json(),
        },
    }


def release_2() -> Assets:
    """2025: no platform, ``source_data``, acquisitions in place of sessions, pooled subjects."""
    from aind_data_schema.components.identifiers import Code, Person
    from aind_data_schema.components.subjects import MouseSubject
    from aind_data_schema.core.acquisition import Acquisition
    from aind_data_schema.core.data_description import DataDescription, Funding
    from aind_data_schema.core.processing import DataProcess, Processing
    from aind_data_schema.core.subject import Subject
    from aind_data_schema_models.data_name_patterns import DataLevel
    from aind_data_schema_models.modalities import Modality
    from aind_data_schema_models.organizations import Organization
    from aind_data_schema_models.process_names import ProcessName
    from aind_data_schema_models.species import Species, Strain

    common: dict[str, Any] = {
        "institution": Organization.AIND,
        "funding_source": [Funding(funder=Organization.NIMH)],
        "investigators": [
            Person(name="José Núñez, PhD", registry_identifier="0000-0002-1825-0097"),
            Person(name="Doe, Jane"),
        ],
        "project_name": "Brain Wide Circuits",
        "modalities": [Modality.FIB, Modality.BEHAVIOR_VIDEOS],
    }
    raw = DataDescription(
        subject_id="600000", creation_time=ACQUIRED, data_level=DataLevel.RAW, **common
    )
    derived = DataDescription(
        name="600000_2022-06-28_10-31-30_videoprocessed_2023-01-02_03-04-05",
        subject_id="600000",
        creation_time=PROCESSED,
        data_level=DataLevel.DERIVED,
        source_data=[raw.name],
        **common,
    )
    pooled = DataDescription(
        name="multiday_pool_2023-01-02_03-04-05",
        creation_time=PROCESSED,
        data_level=DataLevel.DERIVED,
        **common,
    )
    subject = Subject(
        subject_id="600000",
        subject_details=MouseSubject(
            sex="Female",
            date_of_birth=date(2022, 3, 1),
            strain=Strain.C57BL_6J,
            species=Species.HOUSE_MOUSE,
            genotype="wt/wt",
            source=Organization.JAX,
        ),
    )
    acquisition = Acquisition(
        subject_id="600000",
        acquisition_start_time=ACQUIRED,
        acquisition_end_time=ACQUIRED + timedelta(hours=1),
        acquisition_type="Fiber photometry",
        data_streams=[],
        experimenters=["Jane Doe"],
        instrument_id="FIP1",
    )
    processing = Processing(
        data_processes=[
            DataProcess(
                process_type=ProcessName.VIDEO_ROI_TIMESERIES_EXTRACTION,
                name="Track the whiskers",
                stage="Processing",
                code=Code(url="https://example.org/code"),
                experimenters=["Jane Doe"],
                start_date_time=PROCESSED,
                end_date_time=PROCESSED,
            )
        ],
        dependency_graph={"Track the whiskers": []},
    )
    return {
        raw.name: {
            "data_description": raw.model_dump_json(),
            "subject": subject.model_dump_json(),
            "acquisition": acquisition.model_dump_json(),
        },
        derived.name: {
            "data_description": derived.model_dump_json(),
            "processing": processing.model_dump_json(),
        },
        pooled.name: {"data_description": pooled.model_dump_json()},
    }


RELEASES: dict[str, Callable[[], Assets]] = {
    "0.3.0": release_0_3,
    "0.13.11": release_0_13,
    "1.4.0": release_1,
    "2.9.2": release_2,
}

EXTRA = {"0.3.0": ["pydantic<2"], "0.13.11": ["pydantic<2"]}
"""Requirements that the old releases did not bound."""


def record(release: str) -> None:
    """Build the models of the installed release and write them as JSON."""
    for asset, sidecars in RELEASES[release]().items():
        folder = HERE / release / asset
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in sidecars.items():
            text = json.dumps(json.loads(content), indent=3, ensure_ascii=False)
            (folder / f"{name}.json").write_text(text + "\n", "utf-8")


def main() -> None:
    """Record all releases, each in an environment of its own."""
    for release in RELEASES:
        with tempfile.TemporaryDirectory() as folder:
            venv.create(folder, with_pip=True)
            python = Path(folder, "bin", "python")
            packages = [f"aind-data-schema=={release}", *EXTRA.get(release, ())]
            subprocess.run([python, "-m", "pip", "-q", "install", *packages], check=True)
            subprocess.run([python, __file__, release], check=True)


if __name__ == "__main__":
    record(sys.argv[1]) if len(sys.argv) > 1 else main()
