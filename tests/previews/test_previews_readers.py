"""The readers of previews: summaries, tables, text and pictures of real and of hostile files."""

import io
import os
import struct
import zlib
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pypdfium2
import pytest
from PIL import Image, UnidentifiedImageError

from neuromirror.previews import preview_kind
from neuromirror.previews.hdf5 import draw_traces, preview_hdf5
from neuromirror.previews.images import preview_image, preview_pdf
from neuromirror.previews.text import preview_table, preview_text


def _nwb(path: Path) -> Path:
    from pynwb import NWBHDF5IO, NWBFile, TimeSeries
    from pynwb.ecephys import ElectricalSeries
    from pynwb.file import Subject

    nwb = NWBFile(
        session_description="Rat on a linear track",
        identifier="one",
        session_start_time=datetime(2024, 5, 6, 7, 8, tzinfo=UTC),
        institution="Institute of Tests",
        subject=Subject(subject_id="R1", species="Rattus norvegicus", sex="F", age="P90D"),
    )
    device = nwb.create_device("probe")
    group = nwb.create_electrode_group("shank", "one", "CA1", device)
    for _ in range(3):
        nwb.add_electrode(location="CA1", group=group)
    region = nwb.create_electrode_table_region([0, 1, 2], "all")
    samples = np.sin(np.arange(9000).reshape(3000, 3) / 50)
    nwb.add_acquisition(TimeSeries(name="speed", data=np.zeros(50), unit="m/s", rate=10.0))
    nwb.add_acquisition(
        ElectricalSeries(
            name="lfp",
            data=samples,
            electrodes=region,
            rate=1000.0,
            conversion=0.001,
            starting_time=0.0,
        )
    )
    with NWBHDF5IO(path, "w") as io_:
        io_.write(nwb)
    return path


def test_nwb_preview_has_session_subject_series_and_traces(tmp_path: Path) -> None:
    with _nwb(tmp_path / "a.nwb").open("rb") as file:
        found = preview_hdf5(file)
    facts = dict(found.facts)
    assert facts["Session"] == "Rat on a linear track"
    assert facts["Institution"] == "Institute of Tests"
    assert facts["Subject"] == "id R1, species Rattus norvegicus, sex F, age P90D"
    assert (facts["Devices"], facts["Electrodes"], facts["Duration"]) == ("probe", "3", "5.0 s")
    assert facts["Session start"].startswith("2024-05-06T07:08")
    (table,) = found.tables
    assert ["acquisition/lfp", "ElectricalSeries", "3,000 × 3", "volts", "1,000 Hz"] in table.rows
    assert ["acquisition/speed", "TimeSeries", "50", "m/s", "10 Hz"] in table.rows
    assert found.picture is not None
    assert found.picture.data.count(b"<path") == 3
    assert "acquisition/lfp: First 2 s, 3 channels" in found.picture.description


def test_hdf5_preview_lists_datasets(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as made:
        made["one/two"] = np.zeros((3, 4), "u2")
    with path.open("rb") as file:
        (table,) = preview_hdf5(file).tables
    assert table.rows == [["one/two", "3 × 4", "uint16"]]


def test_hdf5_preview_opens_no_other_local_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as made:
        made["session"] = "the secret"
    raw = tmp_path / "raw.bin"
    raw.write_bytes(b"the secret" * 10)
    path = tmp_path / "a.nwb"
    with h5py.File(path, "w") as made:
        made.attrs["nwb_version"] = "2.7.0"
        made["session_description"] = h5py.ExternalLink(str(secret), "/session")
        made["general/devices/harmless/id"] = 1
        made["acquisition/linked"] = h5py.ExternalLink(str(secret), "/")
        made.create_dataset("acquisition/stored/data", (50,), "u1", external=[(str(raw), 0, 100)])
        layout = h5py.VirtualLayout((1,), "u1")
        layout[:] = h5py.VirtualSource(str(secret), "session", (1,))
        made.create_virtual_dataset("acquisition/virtual/data", layout)
        made["acquisition/soft"] = h5py.SoftLink("/acquisition/stored")
    with path.open("rb") as file:
        found = preview_hdf5(file)
    assert found.tables == []
    assert found.picture is None
    assert dict(found.facts) == {"NWB version": "2.7.0", "Devices": "harmless"}


def test_hdf5_preview_of_a_cycle_and_of_many_groups_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as made:
        made["again"] = made["/"]
        for number in range(1500):
            made[f"n{number}"] = number
    with path.open("rb") as file:
        (table,) = preview_hdf5(file).tables
    assert len(table.rows) == 60


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16", "F", "CMYK"])
def test_image_preview_is_a_small_png(mode: str) -> None:
    data = np.arange(1000 * 900, dtype=np.uint32).reshape(900, 1000)
    image = (
        Image.fromarray((data % 60000).astype(np.uint16))
        if mode == "I;16"
        else Image.fromarray((data % 255).astype(np.uint8)).convert(mode)
    )
    made = io.BytesIO()
    image.save(made, "TIFF")
    found = preview_image(made)
    assert dict(found.facts)["Width × height"] == "1000 × 900 pixels"
    assert found.picture is not None
    shown = Image.open(io.BytesIO(found.picture.data))
    assert shown.format == "PNG"
    assert shown.size == (768, 691) == (found.picture.width, found.picture.height)
    low, high = shown.convert("L").getextrema()
    assert high > low


def test_image_of_another_format_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with pytest.raises(UnidentifiedImageError):
        preview_image(io.BytesIO(content))
    assert not (tmp_path / "started").exists()


def test_image_with_too_many_pixels_is_refused() -> None:
    made = io.BytesIO()
    Image.new("1", (1, 1)).save(made, "PNG")
    png = bytearray(made.getvalue())
    png[16:24] = struct.pack(">II", 20_000, 20_000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    with pytest.raises(MemoryError):
        preview_image(io.BytesIO(png))


def test_pdf_preview_is_its_first_page() -> None:
    document = pypdfium2.PdfDocument.new()
    document.new_page(300, 600)
    document.new_page(300, 300)
    made = io.BytesIO()
    document.save(made)
    found = preview_pdf(made)
    assert found.facts == [("Pages", "2, the first is shown")]
    assert found.picture is not None
    assert (found.picture.width, found.picture.height) == (384, 768)


def test_table_preview_has_the_first_rows() -> None:
    rows = ["subject;age", *(f"s{number};{number}" for number in range(30))]
    found = preview_table("\n".join(rows).encode(), "a.csv", whole=True)
    (table,) = found.tables
    assert table.columns == ["subject", "age"]
    assert table.rows[:2] == [["s0", "0"], ["s1", "1"]]
    assert len(table.rows) == 20
    assert found.notes == ["The first 20 rows are shown."]


def test_table_preview_of_ragged_and_quoted_rows() -> None:
    found = preview_table(b'\xef\xbb\xbfa\t"b\tc"\n1\n', "a.TSV", whole=True)
    (table,) = found.tables
    assert (table.columns, table.rows, found.notes) == (["a", "b\tc"], [["1", ""]], [])


def test_json_is_indented_and_a_part_ends_at_a_line() -> None:
    assert preview_text(b'{"a":[1]}', "a.json", whole=True).text == '{\n  "a": [\n    1\n  ]\n}'
    assert preview_text(b'{"a":[1}', "a.json", whole=True).text == '{"a":[1}'
    assert preview_text(b"[" * 100_000, "a.json", whole=True).text.startswith("[[")
    part = preview_text(b"one\ntwo\nthr", "a.txt", whole=False)
    assert (part.text, part.notes) == ("one\ntwo", ["The first 2 lines are shown."])


def test_binary_data_is_no_text() -> None:
    with pytest.raises(ValueError, match="not text"):
        preview_text(b"a\0b", "a.txt", whole=True)


@pytest.mark.parametrize(
    ("path", "size", "kind"),
    [
        ("sub-1/a.nwb", 10, "hdf5"),
        ("a.NWB", 10**10, "hdf5"),
        ("a.png", 10, "image"),
        ("a.png", 10**10, None),
        ("a.pdf", 10, "pdf"),
        ("a.csv", 10**10, "table"),
        ("README", 10, "text"),
        ("README", 0, None),
        (".json", 10, None),
        ("a.nwb", None, None),
        ("a.bin", 10, None),
    ],
)
def test_kinds(path: str, size: int | None, kind: str | None) -> None:
    found = preview_kind(path, size)
    assert (found.name if found else None) == kind


def test_traces_leave_gaps_and_need_two_values() -> None:
    nan = float("nan")
    assert draw_traces([[nan, 1.0, nan]], name="a", unit="V", seconds=1.0) is None
    found = draw_traces([[0.0, 1.0, nan, nan, 1.0, 2.0]], name="a<b", unit="<V>", seconds=None)
    assert found is not None
    text = found.data.decode()
    assert text.count("M") == 2
    assert "&lt;V&gt;" in text
    flat = draw_traces([[3.0] * 5], name="a", unit="", seconds=2.0)
    assert flat is not None
    assert "nan" not in flat.data.decode()
