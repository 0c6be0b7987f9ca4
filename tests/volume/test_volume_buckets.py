"""OME-Zarr and N5 volumes of a bucket: found, mirrored, and equal to what was written.

Formats: OME-Zarr 0.4 and 0.5; N5 as COSEM, BigDataViewer and n5-viewer write it.
"""

import bz2
import gzip
import io
import json
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numcodecs
import numpy as np
import pytest
import tensorstore
import tifffile
import zarr

import neuromirror
import neuromirror.volume
from neuromirror.model import NeuromirrorError
from neuromirror.volume import BlockUnavailableError
from neuromirror.web.pages.folders import GatewayLinks
from neuromirror_demo import DemoBuckets
from support.layer_mirror import LAYER_MIRROR
from support.mirror_harness import MirrorHarness, run_git
from support.running_catalogue import RunningCatalogue, allow_loopback, run_catalogue
from support.volume_archives import cutout_path

SHAPE = (21, 34, 45)
CHUNK = (8, 16, 16)


def _voxels(dtype: str) -> np.ndarray[Any, Any]:
    made = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 251 + 1
    made[8:16, 16:32, :16] = 0  # a chunk that no writer stores
    return made.astype(dtype)


def _coarser(voxels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return voxels[::2, ::2, ::2]


# --- what is written


def _json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _ome(version: str, axes: str, names: tuple[str, ...] = ("0", "1")) -> dict[str, Any]:
    outer = len(axes) - 3
    kinds = {"t": "time", "c": "channel"}
    described = [
        {"name": axis, "type": kinds.get(axis, "space")}
        | ({} if axis in kinds else {"unit": "micrometer"})
        for axis in axes
    ]
    datasets = [
        {
            "path": name,
            "coordinateTransformations": [
                {"type": "scale", "scale": [1] * outer + [2.0 * by, 0.5 * by, 0.5 * by]},
                {"type": "translation", "translation": [0] * outer + [20.0, 2.0, 1.0]},
            ],
        }
        for name, by in zip(names, (1, 2), strict=False)
    ]
    # of all levels, after their own
    whole = [{"type": "scale", "scale": [1] * outer + [10.0, 10.0, 10.0]}]
    multiscale = {
        "axes": described,
        "datasets": datasets,
        "coordinateTransformations": whole,
        "name": "image",
    }
    if version == "0.4":
        return {"multiscales": [multiscale | {"version": "0.4"}]}
    return {"version": version, "multiscales": [multiscale]}


def ome_zarr(
    root: Path, voxels: np.ndarray[Any, Any], version: str, axes: str, **options: Any
) -> None:
    """Write an OME-Zarr with two levels with zarr-python."""
    outer = (1,) * (len(axes) - 3)
    attributes = _ome(version, axes)
    if version == "0.4":
        _json(root / ".zgroup", {"zarr_format": 2})
        _json(root / ".zattrs", attributes)
    else:
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": attributes}}
        _json(root / "zarr.json", group)
    shards = options.pop("shards", None)
    for name, level in (("0", voxels), ("1", _coarser(voxels))):
        array = zarr.create_array(
            root / name,
            shape=(*outer, *level.shape),
            chunks=(*outer, *CHUNK),
            shards=None if shards is None else (*outer, *shards),
            dtype=level.dtype,
            zarr_format=2 if version == "0.4" else 3,
            **options,
        )
        array[...] = level.reshape(array.shape)


def n5_array(
    folder: Path, voxels: np.ndarray[Any, Any], compression: Mapping[str, Any], **attributes: object
) -> None:
    """Write an array of N5 with tensorstore, which leaves out blocks of zeros."""
    spec = {
        "driver": "n5",
        "kvstore": {"driver": "file", "path": str(folder)},
        "metadata": {
            "dimensions": voxels.shape[::-1],
            "blockSize": CHUNK[::-1],
            "dataType": str(voxels.dtype),
            "compression": compression,
            **attributes,
        },
    }
    tensorstore.open(spec, create=True).result().write(voxels.transpose()).result()


def n5_levels(
    root: Path,
    voxels: np.ndarray[Any, Any],
    form: str = "cosem",
    compression: Mapping[str, Any] = {"type": "gzip"},
) -> None:
    group: dict[str, Any] = {}
    levels: list[dict[str, Any]] = [{}, {}]
    if form == "cosem":
        levels = [
            {
                "transform": {
                    "axes": ["z", "y", "x"],
                    "units": ["nm"] * 3,
                    "scale": [40.0 * by, 4.0 * by, 8.0 * by],
                    "translate": [20.0 * (by - 1), 2.0 * (by - 1), 4.0 * (by - 1)],
                }
            }
            for by in (1, 2)
        ]
    elif form == "bigdataviewer":
        group = {"multiScale": True, "resolution": [8.0, 4.0, 40.0]}
        levels[1] = {"downsamplingFactors": [2, 2, 2]}
    elif form == "n5-viewer":
        levels[0] = {"pixelResolution": {"unit": "nm", "dimensions": [8.0, 4.0, 40.0]}}
        group = {"scales": [[1, 1, 1], [2, 2, 2]], "axes": ["x", "y", "z"]}
    if group:
        _json(root / "attributes.json", group)
    for number, level in enumerate((voxels, _coarser(voxels))):
        n5_array(root / f"s{number}", level, compression, **levels[number])


def _lz4_stream(data: bytes) -> bytes:
    """Return lz4-java's stream: blocks of 4096 bytes, one stored as it is, and an end mark."""
    made = b""
    for number, at in enumerate(range(0, len(data), 4096)):
        part = data[at : at + 4096]
        packed = part if number == 1 else numcodecs.lz4.compress(part)[4:]
        token = 0x10 if number == 1 else 0x20
        made += struct.pack("<8sBIII", b"LZ4Block", token | 2, len(packed), len(part), 0) + packed
    return made + struct.pack("<8sBIII", b"LZ4Block", 0x12, 0, 0, 0)


COMPRESSIONS: dict[str, tuple[dict[str, Any], Callable[[bytes], bytes]]] = {
    "lz4": ({"type": "lz4", "blockSize": 65536}, _lz4_stream),
    "zlib": ({"type": "gzip", "useZlib": True}, zlib.compress),
    "raw": ({"type": "raw"}, bytes),
    "bzip2": ({"type": "bzip2"}, bz2.compress),
    "xz": ({"type": "xz"}, lzma.compress),
    "gzip": ({"type": "gzip", "level": -1}, gzip.compress),
    "jpeg": ({"type": "jpeg"}, bytes),
}


def n5_by_hand(folder: Path, voxels: np.ndarray[Any, Any], name: str) -> None:
    """Write an array of N5 by its specification; blocks at the end are smaller."""
    compression, compress = COMPRESSIONS[name]
    attributes = {
        "dimensions": voxels.shape[::-1],
        "blockSize": CHUNK[::-1],
        "dataType": str(voxels.dtype),
        "compression": compression,
    }
    _json(folder / "attributes.json", attributes)
    for z, y, x in np.ndindex(*(-(-size // by) for size, by in zip(SHAPE, CHUNK, strict=True))):
        start = z * CHUNK[0], y * CHUNK[1], x * CHUNK[2]
        slices = tuple(slice(at, at + by) for at, by in zip(start, CHUNK, strict=True))
        block = voxels[slices]
        if block.any():
            path = folder / str(x) / str(y) / str(z)
            path.parent.mkdir(parents=True, exist_ok=True)
            head = struct.pack(">HH3I", 0, 3, *block.shape[::-1])
            big_endian = block.astype(block.dtype.newbyteorder(">"))
            path.write_bytes(head + compress(big_endian.tobytes()))


def _whole_without_fill_value(root: Path) -> None:
    ome_zarr(root, _voxels("uint8"), "0.4", "zyx", config={"write_empty_chunks": True})
    about = json.loads((root / "0/.zarray").read_text())
    _json(root / "0/.zarray", about | {"fill_value": None})


CODECS: dict[str, Any] = {
    **{"blosc": numcodecs.Blosc(), "zstd": numcodecs.Zstd(), "lz4": numcodecs.LZ4()},
    **{"gzip": numcodecs.GZip(), "bz2": numcodecs.BZ2(), "lzma": numcodecs.LZMA()},
}


Writer = Callable[[Path], None]

VOLUMES: dict[str, tuple[str, Writer]] = {
    "ome/v2": ("uint16", lambda root: ome_zarr(root, _voxels("uint16"), "0.4", "zyx")),
    "ome/v2-5d-big-endian": (
        "uint16",
        lambda root: ome_zarr(
            root,
            _voxels(">u2"),
            "0.4",
            "tczyx",
            chunk_key_encoding={"name": "v2", "separator": "/"},
        ),
    ),
    "ome/v3": ("uint8", lambda root: ome_zarr(root, _voxels("uint8"), "0.5", "zyx")),
    "ome/v2-no-fill-value": ("uint8", _whole_without_fill_value),
    **{
        f"ome/v2-{name}": (
            "int16",
            lambda root, codec=codec: ome_zarr(  # type: ignore[misc]
                root, _voxels("int16"), "0.4", "zyx", compressors=codec
            ),
        )
        for name, codec in CODECS.items()
    },
    "ome/v3-crc": (
        "float64",
        lambda root: ome_zarr(
            *(root, _voxels("float64"), "0.5", "zyx"),
            compressors=[zarr.codecs.GzipCodec(), zarr.codecs.Crc32cCodec()],
        ),
    ),
    "ome/v3-sharded": (
        "uint32",
        lambda root: ome_zarr(root, _voxels("uint32"), "0.5", "czyx", shards=(16, 32, 32)),
    ),
    "ome/v3-raw": (
        "float32",
        lambda root: ome_zarr(root, _voxels("float32"), "0.5", "zyx", compressors=None),
    ),
    "n5/cosem": ("uint16", lambda root: n5_levels(root, _voxels("uint16"))),
    "n5/bigdataviewer": (
        "uint16",
        lambda root: n5_levels(root, _voxels("uint16"), "bigdataviewer", {"type": "zstd"}),
    ),
    "n5/n5-viewer": (
        "uint8",
        lambda root: n5_levels(
            root,
            _voxels("uint8"),
            "n5-viewer",
            {"type": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1},
        ),
    ),
    **{
        f"n5/single-{name}": (
            "uint32",
            lambda root, name=name: n5_by_hand(root, _voxels("uint32"), name),  # type: ignore[misc]
        )
        for name in COMPRESSIONS
        if name != "jpeg"
    },
}
"""Every form that is read, with the type of its voxels."""


def _several_channels(root: Path) -> None:
    attributes = {"ome": _ome("0.5", "czyx", ("0",))}
    _json(root / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})
    zarr.create_array(root / "0", shape=(2, *SHAPE), chunks=(1, *CHUNK), dtype="uint8")[...] = 7


def _old_version(root: Path) -> None:
    ome_zarr(root, _voxels("uint8"), "0.4", "zyx")
    text = (root / ".zattrs").read_text().replace('"0.4"', '"0.3"')
    (root / ".zattrs").write_text(text)


def _unknown_codec(root: Path) -> None:
    ome_zarr(root, _voxels("uint8"), "0.4", "zyx")
    about = json.loads((root / "0/.zarray").read_text())
    _json(root / "0/.zarray", about | {"compressor": {"id": "imagecodecs_jpegxl"}})


def _no_fill_value(root: Path) -> None:
    ome_zarr(root, _voxels("uint8"), "0.4", "zyx")
    about = json.loads((root / "0/.zarray").read_text())
    _json(root / "0/.zarray", about | {"fill_value": None})


def _bomb(root: Path, name: str) -> None:
    """Write a volume of which one chunk expands to 64 MB."""
    ome_zarr(root, _voxels("uint8"), "0.4", "zyx", compressors=CODECS[name])
    (root / "0/0.0.0").write_bytes(CODECS[name].encode(bytes(1 << 26)))


def _long_chunk(root: Path) -> None:
    attributes = {"ome": _ome("0.5", "czyx", ("0",))}
    _json(root / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})
    zarr.create_array(root / "0", shape=(1, *SHAPE), chunks=(900_000, *CHUNK), dtype="uint8")


def _no_array(root: Path) -> None:
    ome_zarr(root, _voxels("uint8"), "0.4", "zyx")
    (root / "1/.zarray").unlink()


def _no_factors(root: Path) -> None:
    for number, level in enumerate((_voxels("uint8"), _coarser(_voxels("uint8")))):
        n5_array(root / f"s{number}", level, {"type": "raw"})


def _varlength_block(root: Path) -> None:
    n5_by_hand(root, _voxels("uint32"), "raw")
    content = (root / "0/0/0").read_bytes()
    (root / "0/0/0").write_bytes(b"\0\1" + content[2:])


def _short_block(root: Path) -> None:
    n5_by_hand(root, _voxels("uint32"), "raw")
    head = struct.pack(">HH3I", 0, 3, 16, 16, 7)
    (root / "0/0/0").write_bytes(head + bytes(16 * 16 * 7 * 4))


REFUSED: dict[str, tuple[str, Writer]] = {
    "bad/channels": ("several values along {'c': 2}", _several_channels),
    "bad/version": ("OME-Zarr 0.3", _old_version),
    "bad/codec": ("imagecodecs_jpegxl", _unknown_codec),
    "bad/no-fill-value": ("0/1.1.0 .*states no fill value", _no_fill_value),
    "bad/several-codecs": (
        "encoded with the codecs zlib, zstd",
        lambda root: ome_zarr(
            *(root, _voxels("uint8"), "0.4", "zyx"),
            filters=[numcodecs.Zlib()],
            compressors=numcodecs.Zstd(),
        ),
    ),
    "bad/long-chunk": ("several values along {'c': 900000}", _long_chunk),
    "bad/no-array": ("lacks the array '1'", _no_array),
    **{
        f"bad/bomb-{name}": (
            "expands to more than the 2048 bytes",
            lambda root, name=name: _bomb(root, name),  # type: ignore[misc]
        )
        for name in CODECS
    },
    "bad/no-factors": ("s1 states no downsamplingFactors", _no_factors),
    "bad/jpeg": ("compressed with jpeg", lambda root: n5_by_hand(root, _voxels("uint32"), "jpeg")),
    "bad/varlength": ("another mode", _varlength_block),
    "bad/short": (r"a block of \(16, 16, 7\) voxels", _short_block),
}
"""Every form that is refused, with a part of the message."""


@dataclass
class Bucket:
    """The bucket and its mirror."""

    buckets: DemoBuckets
    harness: MirrorHarness
    folder: Path

    def version(self, volume: str) -> str:
        return f"{LAYER_MIRROR}:{volume}@latest"

    def open(self, volume: str, level: int = 0) -> neuromirror.volume.OpenVolume:
        return neuromirror.volume.open_volume(
            self.version(volume), level, store=self.harness.folder
        )


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    folder = tmp_path_factory.mktemp("bucket")
    with DemoBuckets(folder / "buckets", layers=True, empty=True) as buckets:
        for path in buckets.mirrors.iterdir():
            if path.stem != LAYER_MIRROR:
                path.unlink()
        for name, (_, write) in (VOLUMES | REFUSED).items():
            write(folder / "written" / name)
        zarr.create_array(folder / "written/other/array", shape=SHAPE, chunks=CHUNK, dtype="uint8")
        for path in sorted((folder / "written").rglob("*")):
            if path.is_file():
                key = str(path.relative_to(folder / "written"))
                buckets.put(key, path.read_bytes(), bucket=buckets.precomputed)
        harness = MirrorHarness(buckets.mirrors, folder / "store")
        harness.sync()
        yield Bucket(buckets, harness, folder / "written")


def test_every_volume_is_a_dataset_with_links_for_its_format(bucket: Bucket) -> None:
    with bucket.harness.index() as index:
        names = {one.name.partition(":")[2] for one in index.datasets.select()}
        assert names == {*VOLUMES, *REFUSED}
        at = f"{bucket.buckets.endpoint}/{bucket.buckets.precomputed}"
        for volume, scheme in (("ome/v2", "zarr"), ("n5/cosem", "n5")):
            links = dict(index.datasets.links(f"{LAYER_MIRROR}:{volume}"))
            assert links[scheme] == f"{scheme}://{at}/{volume}"
            row = index.versions.resolve(f"{LAYER_MIRROR}:{volume}")
            gateway = GatewayLinks("https://mirror.example", lambda _: "proxy")
            ((_, link),) = gateway.volume_viewers(index, row)
            assert f'"source":"{scheme}://https://mirror.example/at/{row.name}"' in unquote(link)


@pytest.mark.parametrize("volume", VOLUMES)
def test_arrays_equal_what_was_written(bucket: Bucket, volume: str, tmp_path: Path) -> None:
    voxels = _voxels(VOLUMES[volume][0])
    levels = [voxels] if "single" in volume else [voxels, _coarser(voxels)]
    for number, expected in enumerate(levels):
        array = bucket.open(volume, number).array()
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(array[...], expected)
    clone = tmp_path / "clone"
    source = bucket.harness.repository(f"{LAYER_MIRROR}:{volume}")
    run_git(tmp_path, "clone", "-q", str(source), str(clone))
    assert np.array_equal(neuromirror.volume.open(clone)[:9, 5:20, 40:], voxels[:9, 5:20, 40:])


@pytest.mark.parametrize("key", ["ome/v3/0/c/1/1/1", "n5/cosem/s0/1/1/1"])
def test_a_chunk_of_other_bytes_is_an_error(bucket: Bucket, key: str) -> None:
    stored = bucket.buckets.data(key, bucket=bucket.buckets.precomputed)
    bucket.buckets.put(key, stored[:-1] + b"\1", bucket=bucket.buckets.precomputed)
    try:
        with pytest.raises(BlockUnavailableError, match="/1/1/1"):
            bucket.open("/".join(key.split("/")[:2])).array()[9, 17, 17]
    finally:
        bucket.buckets.put(key, stored, bucket=bucket.buckets.precomputed)


@pytest.mark.parametrize("volume", REFUSED)
def test_a_form_that_is_not_known_is_an_error_by_name(bucket: Bucket, volume: str) -> None:
    with pytest.raises(NeuromirrorError, match=REFUSED[volume][0]):
        bucket.open(volume).array()[...]


@pytest.mark.parametrize("volume", ["ome/v3-sharded", "ome/v2-5d-big-endian", "n5/cosem"])
def test_an_export_is_at_the_place_that_the_metadata_state(
    bucket: Bucket, volume: str, tmp_path: Path
) -> None:
    level = bucket.open(volume, 1).level
    box = tuple((start + 3, stop - 2) for start, stop in zip(level.start, level.stop, strict=True))
    made = neuromirror.volume.export(
        bucket.version(volume),
        tmp_path,
        level=1,
        box=box,
        format="zarr",
        store=bucket.harness.folder,
    )
    (root,) = tmp_path.glob("*.ome.zarr")
    group = zarr.open_group(root, mode="r")
    expected = _coarser(_voxels(VOLUMES[volume][0]))[3:-2, 3:-2, 3:-2]
    assert np.array_equal(group[made.level][...], expected)
    multiscale = group.attrs["ome"]["multiscales"][0]
    scale, move = multiscale["datasets"][0]["coordinateTransformations"]
    if volume == "n5/cosem":
        size, first = np.array([80.0, 8.0, 16.0]), np.array([20.0, 2.0, 4.0])
        unit = "nanometer"
    else:
        size, first = np.array([40.0, 10.0, 10.0]), np.array([200.0, 20.0, 10.0])
        unit = "micrometer"
    assert {one["unit"] for one in multiscale["axes"]} == {unit}
    assert np.allclose(scale["scale"], size)
    assert np.allclose(move["translation"], first + 3 * size)


@pytest.mark.parametrize("volume", ["ome/v2", "ome/v3-sharded", "n5/bigdataviewer"])
def test_open_zarr_reads_each_format(bucket: Bucket, volume: str) -> None:
    group = neuromirror.open_zarr(bucket.version(volume), store=bucket.harness.folder)
    voxels = _voxels(VOLUMES[volume][0])
    assert np.array_equal(np.squeeze(group["0"][...]), voxels)
    assert np.array_equal(np.squeeze(group["1"][...]), _coarser(voxels))
    group.store.close()


# --- the catalogue


@pytest.fixture(scope="module")
def site(bucket: Bucket) -> Iterator[RunningCatalogue]:
    with pytest.MonkeyPatch.context() as patch:
        allow_loopback(patch)
        with run_catalogue(bucket.harness.store, "--gateway=proxy") as found:
            yield found


@pytest.mark.parametrize("volume", ["ome/v2-5d-big-endian", "ome/v3", "n5/cosem"])
def test_the_catalogue_cuts_out_and_draws_each_format(
    bucket: Bucket, site: RunningCatalogue, volume: str
) -> None:
    name = f"{LAYER_MIRROR}:{volume}"
    level = site.api(f"/datasets/{quote(name, safe='')}@latest/volume")["levels"][0]
    x, y, z = level["start"]
    box = f"{x + 5}:{x + 40},{y + 10}:{y + 30},{z + 3}:{z + 12}"
    found = tifffile.imread(io.BytesIO(site.get(cutout_path(name, 0, box)).content))
    voxels = _voxels(VOLUMES[volume][0])
    assert np.array_equal(found, voxels[3:12, 10:30, 5:40])
    assert site.get(f"/slice/{name}@latest.png").content.startswith(b"\x89PNG")
    assert "cloudvolume" not in site.page(f"/volume/{name}@latest")


def test_the_catalogue_says_why_a_chunk_cannot_be_decoded(site: RunningCatalogue) -> None:
    page = site.text(cutout_path(f"{LAYER_MIRROR}:bad/bomb-gzip", 0, "10:11,10:11,10:11"), 501)
    assert "0/0.0.0 cannot be read: it expands to more than the 2048 bytes" in page


def test_the_catalogue_does_not_read_shards(site: RunningCatalogue) -> None:
    name = f"{LAYER_MIRROR}:ome/v3-sharded"
    assert "shards" in site.page(f"/volume/{name}@latest")
    site.page(cutout_path(name, 0, "0:9,0:9,0:9"), 400)


@pytest.mark.parametrize(
    ("volume", "driver"), [("ome/v2", "zarr"), ("ome/v3-sharded", "zarr3"), ("n5/cosem", "n5")]
)
def test_tensorstore_reads_each_format_at_the_gateway(
    bucket: Bucket, site: RunningCatalogue, volume: str, driver: str
) -> None:
    folder = "s0" if driver == "n5" else "0"
    at = f"{site.address}/at/{bucket.version(volume)}/{folder}/"
    found = tensorstore.open({"driver": driver, "kvstore": at}).result().read().result()
    voxels = _voxels(VOLUMES[volume][0])
    assert np.array_equal(found.transpose() if driver == "n5" else np.squeeze(found), voxels)
