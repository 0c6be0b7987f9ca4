"""Small real NWB files with reproducible bytes.

Equal recipes and equal versions of pynwb, hdmf and h5py give equal bytes; other versions may lay a
file out differently.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neuromirror_demo.records import fixed_uuid

_LAYOUT = 1
"""Increment it when the written bytes change, so that no outdated cached file is used."""

_PATH = re.compile(r"sub-(?P<subject>[^_/]+)_ses-(?P<session>[^_/]+)(_(?P<kind>[a-z]+))?\.nwb$")


@dataclass(frozen=True, slots=True)
class NwbRecipe:
    """The contents of a file; another ``revision`` has other data for the same session."""

    subject: str
    session: str
    kind: str = "ecephys"
    revision: int = 0


def parse_recipe(path: str, revision: int = 0) -> NwbRecipe:
    """Return the recipe for an asset path such as ``sub-101/sub-101_ses-01_ecephys.nwb``."""
    match = _PATH.search(path)
    if match is None:
        return NwbRecipe(Path(path).stem, "01", revision=revision)
    return NwbRecipe(match["subject"], match["session"], match["kind"] or "ecephys", revision)


def session_start(recipe: NwbRecipe) -> datetime:
    """Return the start time of the session (UTC)."""
    days = int(fixed_uuid("start", recipe.subject, recipe.session)[:6], 16) % 300
    return datetime(2021, 5, 3, 10, tzinfo=UTC) + timedelta(days=days)


def nwb_bytes(recipe: NwbRecipe, cache: Path) -> bytes:
    """Return the bytes of the file, from ``cache`` if they were written before."""
    name = repr((_LAYOUT, sorted(asdict(recipe).items()), _releases()))
    kept = cache / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.nwb"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            _write(recipe, Path(scratch, "new.nwb"))
            os.replace(Path(scratch, "new.nwb"), kept)
    return kept.read_bytes()


@functools.cache
def _releases() -> list[str]:
    """Return the releases of the packages that determine the bytes."""
    return [version(name) for name in ("pynwb", "hdmf", "h5py")]


def _write(recipe: NwbRecipe, target: Path) -> None:
    import numpy
    from pynwb import NWBHDF5IO, NWBFile, TimeSeries
    from pynwb.ecephys import ElectricalSeries
    from pynwb.file import Subject

    seed = int(fixed_uuid("nwb", *asdict(recipe).values())[:6], 16) | 1
    start = session_start(recipe)
    nwb = NWBFile(
        session_description=f"Demo session {recipe.session}: made-up signals, no animal was used.",
        identifier=fixed_uuid("session", *asdict(recipe).values()),
        session_start_time=start,
        file_create_date=[start + timedelta(days=1)],
        session_id=recipe.session,
        experimenter=["Doe, Jane"],
        lab="Example Lab",
        institution="Example Institute",
        keywords=["demo"],
    )
    nwb.subject = Subject(
        subject_id=recipe.subject, species="Mus musculus", sex="M", age="P90D", description="none"
    )
    samples = (numpy.arange(2000, dtype="uint64") * numpy.uint64(seed) // numpy.uint64(7)) % 4093
    if recipe.kind == "behavior":
        # Quarters are exact in binary, so no rounding differs between machines.
        speed = samples.astype("float64") / 4
        nwb.add_acquisition(
            TimeSeries(name="running_speed", data=speed, unit="cm/s", rate=50.0, starting_time=0.0)
        )
    else:
        probe = nwb.create_device(name="probe0", description="a made-up silicon probe")
        shank = nwb.create_electrode_group(
            "shank0", description="one shank", location="CA1", device=probe
        )
        for number in range(4):
            nwb.add_electrode(group=shank, location="CA1", x=0.0, y=20.0 * number, z=0.0)
        electrodes = nwb.create_electrode_table_region([0, 1, 2, 3], "all four")
        voltage = samples.astype("int16").reshape(500, 4)
        nwb.add_acquisition(
            ElectricalSeries(
                name="ElectricalSeries",
                data=voltage,
                electrodes=electrodes,
                rate=1000.0,
                starting_time=0.0,
                conversion=1e-6,
            )
        )
    with NWBHDF5IO(str(target), "w") as io:
        # The cached specification would be nine tenths of the file.
        io.write(nwb, cache_spec=False)
    _fix_object_ids(target, recipe)


def _fix_object_ids(target: Path, recipe: NwbRecipe) -> None:
    """Replace the random object ids that hdmf gives every group and dataset."""
    import h5py

    def fix(name: str, node: Any) -> None:
        if "object_id" in node.attrs:
            node.attrs.modify("object_id", fixed_uuid("object", *asdict(recipe).values(), name))

    with h5py.File(target, "r+") as file:
        fix("/", file)
        file.visititems(fix)
