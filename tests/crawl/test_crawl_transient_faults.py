"""A transient fault mints nothing: later states are those of an undisturbed store."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from neuromirror.model import EventRaised, VersionMinted
from neuromirror_demo import DemoArchive
from neuromirror_demo.archive_contents import zarr_entries
from neuromirror_demo.records import Description
from support.mirror_harness import MirrorHarness
from support.quick_mirror import dataset_refs, quick_harness

BLOBS, ZARRS = "000901", "000902"
SMALL, LARGE = "sub-1/small.ome.zarr", "sub-1/large.ome.zarr"
PARTS = "sub-1/parts.ome.zarr"
LISTING = r"^/demo-dandiarchive/?$"

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "503": ("status", {"status": 503}),
    "reset": ("reset", {}),
    "timeout": ("hang", {"seconds": 30}),
}


@contextmanager
def filled_archive(folder: Path, dandiset: str) -> Iterator[DemoArchive]:
    """A dandiset with a published version, or one with two inline Zarrs and a linked one.

    An ETag of the Zarr ``PARTS`` does not identify the content.
    """
    with DemoArchive(folder, empty=True) as archive:
        (archive.mirrors / "demo.toml").write_text(
            f'source = "dandi"\n[options]\napi = "{archive.api_url}"\n'
            "[zarr]\ninline_components = 8\n"
        )
        archive.create_dandiset(Description("Small"), identifier=dandiset)
        if dandiset == BLOBS:
            for number in range(3):
                archive.add_file(BLOBS, f"sub-1/{number}.txt", f"content {number}")
            archive.publish(BLOBS)
            archive.add_file(BLOBS, "sub-1/3.txt", b"another")
        else:
            archive.add_file(ZARRS, "README.md", b"Zarrs")
            archive.add_zarr(ZARRS, SMALL, {".zgroup": b"{}", "0/0": b"chunk"})
            archive.add_zarr(ZARRS, LARGE, zarr_entries())
            entries = {".zgroup": b"{}", "0/0": b"in two parts"}
            archive.add_zarr(ZARRS, PARTS, entries, part_sizes={"0/0": 6})
        yield archive


@dataclass(frozen=True)
class UnchangedArchive:
    """An archive that the tests do not change, and the refs of a store without faults."""

    demo: DemoArchive
    refs: dict[str, str]


@pytest.fixture(scope="module")
def archives(
    tmp_path_factory: pytest.TempPathFactory, module_home: Path
) -> Iterator[dict[str, UnchangedArchive]]:
    with ExitStack() as stack:
        found = {}
        for dandiset in (BLOBS, ZARRS):
            folder = tmp_path_factory.mktemp("unchanged")
            demo = stack.enter_context(filled_archive(folder / "demo", dandiset))
            mirror_harness = quick_harness(demo.mirrors, folder / "undisturbed")
            assert {one.exit_code for one in mirror_harness.sync().values()} == {0}
            found[dandiset] = UnchangedArchive(demo, dataset_refs(mirror_harness))
        yield found


@pytest.fixture
def open_archive(
    archives: dict[str, UnchangedArchive],
) -> Iterator[Callable[[str], UnchangedArchive]]:
    """Return the archive of a dandiset, without the faults of other tests."""

    def open_one(dandiset: str) -> UnchangedArchive:
        archives[dandiset].demo.clear_requests()
        return archives[dandiset]

    yield open_one
    for archive in archives.values():
        archive.demo.clear_faults()


@pytest.fixture
def zarrs(open_archive: Callable[[str], UnchangedArchive]) -> UnchangedArchive:
    """The archive with Zarrs."""
    return open_archive(ZARRS)


@pytest.fixture
def blobs(open_archive: Callable[[str], UnchangedArchive]) -> UnchangedArchive:
    """The archive with a published version."""
    return open_archive(BLOBS)


@pytest.fixture
def changing_archive(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[DemoArchive]:
    """An archive of one test, which changes it."""
    with filled_archive(tmp_path / "changing", request.param) as running:
        yield running


def check_recovers(mirror_harness: MirrorHarness, archive: UnchangedArchive, dataset: str) -> None:
    """Check that the dataset failed without a new version, and that the next sync completes it."""
    assert not [
        one for one in dataset_refs(mirror_harness) if one.startswith(dataset.replace(":", "--"))
    ]
    assert mirror_harness.entries(EventRaised) == []
    archive.demo.clear_faults()
    assert {one.exit_code for one in mirror_harness.sync().values()} == {0}
    assert dataset_refs(mirror_harness) == archive.refs
    mirror_harness.fsck(killed=True)  # the first commit of the superdataset was replaced


# each kind for a request of the API, of an object and of a list of objects
ONE_AND_REFUSAL = ["403", "503"]
# dataset, kinds of faults, and where: the id of a Zarr and the key of the blob are filled in
PARTS_OF_A_VISIT: dict[str, tuple[str, Iterable[str], dict[str, str]]] = {
    "assets": (BLOBS, KINDS, {"path": rf"/{BLOBS}/versions/[^/]+/assets/$"}),
    "versions": (BLOBS, ["503"], {"path": rf"/{BLOBS}/versions/$"}),
    "info": (BLOBS, ["503"], {"path": rf"/{BLOBS}/versions/.*/info/$"}),
    "blob": (BLOBS, ["403", *KINDS], {"server": "s3", "path": "{blob}", "method": "HEAD"}),
    "all Zarrs": (ZARRS, KINDS, {"server": "s3", "path": LISTING, "method": "GET"}),
    "small Zarr": (
        ZARRS,
        ONE_AND_REFUSAL,
        {"server": "s3", "path": LISTING, "query": f"{{{SMALL}}}"},
    ),
    "large Zarr": (
        ZARRS,
        ONE_AND_REFUSAL,
        {"server": "s3", "path": LISTING, "query": f"{{{LARGE}}}"},
    ),
    "object versions": (ZARRS, ["503"], {"server": "s3", "path": LISTING, "query": "^versions"}),
    # its ETag does not identify the content: without HEAD only the size would be known
    "object of a Zarr": (
        ZARRS,
        ONE_AND_REFUSAL,
        {"server": "s3", "path": f"{{{PARTS}}}/0/0", "method": "HEAD"},
    ),
}


@pytest.mark.parametrize(
    ("part", "kind"),
    [(part, kind) for part, (_, kinds, _) in PARTS_OF_A_VISIT.items() for kind in kinds],
)
def test_a_part_that_fails_is_not_left_out_and_mints_no_version(
    open_archive: Callable[[str], UnchangedArchive], tmp_path: Path, part: str, kind: str
) -> None:
    dandiset, _, where = PARTS_OF_A_VISIT[part]
    unchanged = open_archive(dandiset)
    archive = unchanged.demo
    mirror_harness = quick_harness(archive.mirrors, tmp_path / "store")
    if dandiset == BLOBS:
        blob = archive.dandisets[BLOBS].draft.assets["sub-1/1.txt"].blob
        assert blob is not None
        named = {"{blob}": blob.key}
    else:
        named = {
            f"{{{path}}}": archive.find_zarr(ZARRS, path).zarr_id for path in (SMALL, LARGE, PARTS)
        }
    for text, value in named.items():
        where = {option: one.replace(text, value) for option, one in where.items()}
    name, options = KINDS.get(kind, ("status", {"status": 403}))
    fault = archive.fault(name, **where, **options)
    result = mirror_harness.sync()[f"demo:{dandiset}"]
    assert fault.struck
    assert (result.exit_code, result.visit, result.versions) == (1, "failed", ())
    if part in ("small Zarr", "large Zarr"):
        assert f"demo:zarr/{where['query']}" in result.message
    if part == "blob":
        assert "demo-dandiarchive" in result.message
    check_recovers(mirror_harness, unchanged, f"demo:{dandiset}")


@pytest.mark.parametrize("server", ["api", "s3", "list"])
@pytest.mark.parametrize("path", [SMALL, LARGE])
def test_a_zarr_that_is_refused_for_a_day_blocks_its_dataset_no_longer(
    zarrs: UnchangedArchive, tmp_path: Path, server: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zarrs.demo
    mirror_harness, name = quick_harness(archive.mirrors, tmp_path / "store"), f"demo:{ZARRS}"
    zarr = archive.find_zarr(ZARRS, path).zarr_id
    options = {
        "api": {"server": "api", "path": f"/zarr/{zarr}/$"},
        "s3": {"server": "s3", "path": f"/zarr/{zarr}/."},
        "list": {"server": "s3", "path": LISTING, "query": zarr},
    }
    fault = archive.fault("status", status=403, **options[server])
    assert [mirror_harness.sync()[name].visit for _ in range(2)] == ["failed", "failed"]
    monkeypatch.setattr("neuromirror.crawl.listing.LASTING_AFTER", timedelta(0))
    for _ in range(2):
        struck = fault.struck
        result = mirror_harness.sync()[name]
        assert fault.struck > struck
        assert (result.exit_code, result.visit) == (1, "partial")
        assert f"demo:zarr/{zarr}" in result.message
        with mirror_harness.index() as index:
            row = index.versions.resolve(name, "draft")
            assert row.files > 0
            named = [(one["path"], one["reason"]) for one in index.versions.exceptions(row)]
            assert named == [(path, "zarr-refused")]
    archive.clear_faults()
    assert mirror_harness.sync()[name].visit == "full"
    with mirror_harness.index() as index:
        assert list(index.versions.exceptions(index.versions.resolve(name, "draft"))) == []
    assert mirror_harness.sync()[name].status == "notneeded"
    mirror_harness.fsck(killed=True)  # the first commit of the superdataset was replaced


def test_a_web_page_instead_of_objects_mints_no_version(
    blobs: UnchangedArchive, tmp_path: Path
) -> None:
    """A proxy's page has another size than the file, which does not mean that upstream changed."""
    archive = blobs.demo
    mirror_harness = quick_harness(archive.mirrors, tmp_path / "store")
    fault = archive.fault("html", server="s3", path=".")
    results = mirror_harness.sync()
    assert fault.struck
    assert {result.visit for result in results.values()} == {"failed"}
    check_recovers(mirror_harness, blobs, f"demo:{BLOBS}")


def test_a_blob_that_the_bucket_does_not_have_is_requested_in_each_sync(
    zarrs: UnchangedArchive, tmp_path: Path
) -> None:
    """The bucket itself states it: it blocks nothing, and every run checks it."""
    archive = zarrs.demo
    mirror_harness = quick_harness(archive.mirrors, tmp_path / "store")
    blob = archive.dandisets[ZARRS].draft.assets["README.md"].blob
    assert blob is not None
    fault = archive.fault("status", server="s3", path=blob.key, method="HEAD", status=404)
    for _ in range(2):
        struck = fault.struck
        result = mirror_harness.sync()[f"demo:{ZARRS}"]
        assert fault.struck > struck
        assert (result.exit_code, result.visit) == (1, "partial")
        assert len(dataset_refs(mirror_harness)) > 0
    archive.clear_faults()
    branch = f"demo--{ZARRS} refs/heads/git-annex"
    before = dataset_refs(mirror_harness)[branch]
    assert mirror_harness.sync()[f"demo:{ZARRS}"].visit == "full"
    # now the URL with the version id is recorded
    assert dataset_refs(mirror_harness)[branch] != before
    assert mirror_harness.sync()[f"demo:{ZARRS}"].status == "notneeded"


def test_an_object_that_its_bucket_refuses_for_a_day_blocks_its_dataset_no_longer(
    blobs: UnchangedArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = blobs.demo
    mirror_harness, name = quick_harness(archive.mirrors, tmp_path / "store"), f"demo:{BLOBS}"
    assets = archive.dandisets[BLOBS].draft.assets
    refused = [assets[f"sub-1/{number}.txt"].blob for number in (1, 2)]
    keys = [blob.key for blob in refused if blob is not None]
    for key in keys:
        archive.fault("status", server="s3", path=key, method="HEAD", status=403)
    assert [mirror_harness.sync()[name].visit for _ in range(2)] == ["failed", "failed"]
    monkeypatch.setattr("neuromirror.crawl.listing.LASTING_AFTER", timedelta(0))
    for _ in range(2):
        archive.clear_requests()
        result = mirror_harness.sync()[name]
        assert (result.exit_code, result.visit) == (1, "partial")
        assert [result.message.count(key) for key in keys] == [1, 1]
        # checked again in each sync
        requested = [one for one in archive.s3_requests if any(key in one for key in keys)]
        assert len(set(requested)) == len(keys)
    refs = dataset_refs(mirror_harness)
    # the files are the same as in other stores; only their versioned URLs are missing
    here = {ref: sha for ref, sha in refs.items() if not ref.endswith("git-annex")}
    assert here.items() <= blobs.refs.items()
    archive.clear_faults()
    assert mirror_harness.sync()[name].visit == "full"
    assert mirror_harness.sync()[name].status == "notneeded"


@pytest.mark.parametrize("changing_archive", [BLOBS], indirect=True)
def test_an_object_that_a_published_version_lacks_is_requested_in_each_sync(
    changing_archive: DemoArchive, tmp_path: Path
) -> None:
    archive = changing_archive
    mirror_harness, name = quick_harness(archive.mirrors, tmp_path / "store"), f"demo:{BLOBS}"
    blob = archive.dandisets[BLOBS].draft.assets["sub-1/1.txt"].blob
    assert blob is not None
    fault = archive.fault("status", server="s3", path=blob.key, method="HEAD", status=404)
    mirror_harness.sync()
    # the draft is published without it
    archive.remove_file(BLOBS, "sub-1/1.txt")
    for _ in range(3):
        struck = fault.struck
        result = mirror_harness.sync()[name]
        assert (result.exit_code, result.visit) == (1, "partial")
        assert blob.key in result.message
        assert fault.struck > struck
    archive.clear_faults()
    assert mirror_harness.sync()[name].visit == "full"
    archive.clear_requests()
    assert mirror_harness.sync()[name].status == "notneeded"
    assert archive.s3_requests == []


@pytest.mark.parametrize("changing_archive", [ZARRS], indirect=True)
def test_a_new_state_waits_for_all_of_its_zarrs(
    changing_archive: DemoArchive, tmp_path: Path
) -> None:
    """The previous state stays: new files with an old Zarr never existed upstream."""
    archive = changing_archive
    disturbed = quick_harness(archive.mirrors, tmp_path / "disturbed")
    other = quick_harness(archive.mirrors, tmp_path / "other")
    disturbed.sync()
    other.sync()
    refs = dataset_refs(disturbed)
    archive.add_file(ZARRS, "new.txt", b"new")
    archive.change_zarr(ZARRS, LARGE, "0/0/0", b"changed")
    zarr = archive.find_zarr(ZARRS, LARGE).zarr_id
    archive.fault("status", server="s3", path=LISTING, query=zarr, status=503)
    result = disturbed.sync()[f"demo:{ZARRS}"]
    assert (result.exit_code, result.visit, result.versions) == (1, "failed", ())
    assert dataset_refs(disturbed) == refs
    archive.clear_faults()
    assert disturbed.sync()[f"demo:{ZARRS}"].visit == "full"
    other.sync()
    assert dataset_refs(disturbed) == dataset_refs(other)
    minted = [entry for entry in disturbed.entries(VersionMinted) if entry.local_id == ZARRS]
    assert len(minted) == 2
