"""Pitfalls of mirroring a DANDI archive, one test each, from sync to clone."""

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.model import Retention, VersionMinted
from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description
from support.embargo_harness import NAME as EMBARGOED
from support.embargo_harness import EmbargoHarness, contents
from support.list_faults import and_then, lost_page
from support.mirror_harness import MirrorHarness, run_git
from support.private_buckets import run_here
from support.zarrs_of_every_kind import ODD_PATHS, add_zarrs, image_entries, odd_entries

NAME = "demo:000001"
ZARR = "sub-1/sub-1_photo.ome.zarr"
LIMITS = "[zarr]\ninline_components = 30\n"
Serve = Callable[[Path], str]


def write_mirror_file(demo: DemoArchive, more: str = LIMITS) -> None:
    """Write the mirror file; by default, Zarrs of 30 entries or more are subdatasets."""
    options = f'source = "dandi"\n[options]\napi = "{demo.api_url}"\n{more}'
    (demo.mirrors / "demo.toml").write_text(options)


@pytest.fixture
def images(empty_archive: DemoArchive) -> DemoArchive:
    """An archive of one dandiset with a file and a Zarr that becomes a subdataset."""
    empty_archive.create_dandiset(Description("Images"))
    chunks = {f"0/0/{number}": bytes([number]) * 64 for number in range(6)}
    empty_archive.add_zarr("000001", ZARR, {".zgroup": b"{}", "0/.zarray": b"{}", **chunks})
    empty_archive.add_file("000001", "notes.txt", "first\n")
    write_mirror_file(empty_archive, "[zarr]\ninline_components = 5\n")
    return empty_archive


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def command_output(mirror_harness: MirrorHarness, *arguments: str, code: int = 0) -> str:
    """Return the output of a command on a store."""
    named = ["--mirrors", str(mirror_harness.mirrors), "--store", str(mirror_harness.folder)]
    done = CliRunner().invoke(main, [*named, *arguments], catch_exceptions=False)
    assert done.exit_code == code, done.stdout + done.stderr
    return done.stdout


def labels(mirror_harness: MirrorHarness, dataset: str = NAME) -> list[str]:
    with mirror_harness.index() as index:
        return [one.label for one in index.versions.of(dataset)]


def bytes_of(demo: DemoArchive, dandiset: str) -> dict[str, bytes]:
    """Return the content of the files of a dandiset by path, including its Zarrs."""
    found: dict[str, bytes] = {}
    versions = demo.dandisets[dandiset]
    version = versions.published[-1] if versions.published else versions.draft
    for path, asset in version.assets.items():
        if asset.blob is not None:
            found[path] = asset.blob.data
        else:
            assert asset.zarr is not None
            found |= {f"{path}/{name}": one.data for name, one in asset.zarr.entries.items()}
    return found


def count_verified_files(clone: Path) -> int:
    """Return how many files git-annex verifies here and in all subdatasets; none may fail."""
    found = run(clone, "git", "submodule", "foreach", "--recursive", "-q", "git annex fsck --json")
    found += run(clone, "git", "annex", "fsck", "--json")
    results = [json.loads(line)["success"] for line in found.splitlines()]
    assert all(results)
    return len(results)


def assert_zarrs_open(clone: Path, paths: list[str]) -> None:
    """Read every array with zarr."""
    import numpy
    import zarr

    def read(node: zarr.Group | zarr.Array) -> int:
        if isinstance(node, zarr.Array):
            return int(numpy.asarray(node[...]).size > 0)
        return sum(read(node[name]) for name in node)

    for path in paths:
        assert read(zarr.open(store=str(clone / path), mode="r")) >= 1, path


# --- the whole archive


@pytest.mark.slow
def test_the_whole_archive_is_mirrored_cloned_got_checked_and_read(
    mirror_harness: MirrorHarness, demo: DemoArchive, serve_directory: Serve, tmp_path: Path
) -> None:
    zarrs = add_zarrs(demo)
    write_mirror_file(demo)
    wrong = zarrs["wrong"]["dandiset"]
    results = mirror_harness.sync()
    assert [name for name, one in results.items() if one.exit_code] == [f"demo:{wrong}"]
    expected: dict[str, bytes] = {}
    public = [name for name, one in demo.dandisets.items() if not one.embargoed]
    for dandiset in public:
        files = bytes_of(demo, dandiset)
        with mirror_harness.index() as index:
            row = index.versions.resolve(f"demo:{dandiset}")
            left_out = {exception["path"] for exception in index.versions.exceptions(row)}
            parts = list(index.versions.subdatasets(row))
            mirrored = {one.source_path.decode() for one in index.files.of(row)}
            for part in parts:
                inside = index.files.of(index.versions.resolve(part.dataset, part.commit))
                mirrored |= {
                    f"{part.source_path.decode()}/{one.source_path.decode()}" for one in inside
                }
        # listed = committed + named exceptions
        assert left_out == ({zarrs["wrong"]["path"]} if dandiset == wrong else set())
        files = {path: data for path, data in files.items() if not path.startswith(tuple(left_out))}
        assert mirrored == files.keys()
        expected |= {f"{dandiset}/{path}": data for path, data in files.items()}
    shared = f"zarr/{zarrs['shared']['zarr']}"
    minted = [entry for entry in mirror_harness.entries(VersionMinted) if entry.local_id == shared]
    assert len(minted) == 1
    clone = tmp_path / "clone"
    address = f"{serve_directory(mirror_harness.folder)}/alias/demo"
    run(tmp_path, "git", "clone", "-q", address, str(clone))
    # those with Zarrs, and one with published versions
    cloned = sorted({"000002", *(zarr["dandiset"] for zarr in zarrs.values())} & set(public))
    run(clone, "git", "submodule", "update", "-q", "--init", "--recursive", *cloned)
    assert run_here(clone, "get", "-r", *cloned, environment={}).returncode == 0
    expected = {path: data for path, data in expected.items() if path.partition("/")[0] in cloned}
    assert len(expected) > 300
    assert {path: (clone / path).read_bytes() for path in expected} == expected
    assert run(clone, "git", "status", "--porcelain") == ""
    closed = ("closed", "wrong")
    paths = [f"{one['dandiset']}/{one['path']}" for key, one in zarrs.items() if key not in closed]
    assert_zarrs_open(clone, paths)


def test_odd_names_are_mirrored_got_checked_and_read(
    small_archive_harness: MirrorHarness,
    empty_archive: DemoArchive,
    serve_directory: Serve,
    tmp_path: Path,
) -> None:
    """Blanks, brackets, names that differ in case only, dot files, names like options."""
    empty_archive.create_dandiset(Description("Odd names"))
    assert "a #1 & b+c=d~e (f),g.txt" in ODD_PATHS
    for path in (*ODD_PATHS, r"back\slash.txt", ".gitattributes", "sub/.datalad/config"):
        empty_archive.add_file("000001", path, f"This is {path}\n")
    empty_archive.add_zarr("000001", "Twin/odd (1).zarr", odd_entries())
    empty_archive.add_zarr("000001", "twin/odd (1).zarr", image_entries(3))
    write_mirror_file(empty_archive)
    assert small_archive_harness.sync()[NAME].status == "ok"
    assert small_archive_harness.sync()[NAME].status == "notneeded"
    clone = tmp_path / "clone"
    address = f"{serve_directory(small_archive_harness.folder)}/alias/demo--000001"
    run(tmp_path, "git", "clone", "-q", address, str(clone))
    run(clone, "datalad", "get", "-r", ".")
    expected = bytes_of(empty_archive, "000001")
    with small_archive_harness.index() as index:
        row = index.versions.resolve(NAME)
        assert not index.versions.exceptions(row)
        git_paths = {one.source_path.decode(): one.path for one in index.files.of(row)}
        assert [one.source_path.decode() for one in index.versions.subdatasets(row)] == [
            "twin/odd (1).zarr"
        ]
    escaped = {path for path in git_paths if git_paths[path] != path}
    assert escaped == {r"back\slash.txt", ".gitattributes", "sub/.datalad/config"}
    found = {path: (clone / git_paths.get(path, path)).read_bytes() for path in expected}
    assert found == expected
    assert count_verified_files(clone) == len(expected)
    assert_zarrs_open(clone, ["Twin/odd (1).zarr", "twin/odd (1).zarr"])


def test_only_reliable_addresses_are_requested(
    small_archive_harness: MirrorHarness, two_dandisets: DemoArchive
) -> None:
    """No nested asset, prefix or glob, no signed URL, no Zarr's own list, no missing slash.

    A nested URL does not check that the asset is in the version, ``path=`` ignores case, ``glob``
    matches across folders, the list of a Zarr's files finds ``10/`` for ``1/``, a Zarr's prefix
    is not an object, and a URL without its last slash is redirected.
    """
    demo = two_dandisets
    add_zarrs(demo)
    write_mirror_file(demo)
    small_archive_harness.sync(deep=True, history=True)
    small_archive_harness.sync(deep=True)
    of_api = (
        r"GET /api/(info/|dandisets/(\?ordering=id&.*)?|dandisets/\d{6}/"
        r"|dandisets/\d{6}/versions/\?order=created&.*|dandisets/\d{6}/versions/[0-9a-z.]+/info/"
        r"|dandisets/\d{6}/versions/[0-9a-z.]+/assets/\?metadata=true&order=path&.*"
        r"|zarr/[0-9a-f-]{36}/)|HEAD /api/zarr/[0-9a-f-]{36}/files/\?prefix=zarr.json"
    )
    assert demo.requests
    assert [request for request in demo.requests if not re.fullmatch(of_api, request)] == []
    assert not any("path=" in request.replace("order=path", "") for request in demo.requests)
    of_bucket = r"(HEAD|GET) /demo-dandiarchive/(blobs/.*[^/]|zarr/[0-9a-f-]{36}/[^?].*|\?.*)?"
    assert [request for request in demo.s3_requests if not re.fullmatch(of_bucket, request)] == []
    assert not any(one.startswith("GET /demo-dandiarchive/blobs/") for one in demo.s3_requests)


# --- paged lists


def test_a_page_past_the_end_causes_no_tombstone(
    small_archive_harness: MirrorHarness, empty_archive: DemoArchive
) -> None:
    empty_archive.create_dandiset(Description("Published"))
    empty_archive.add_file("000001", "a.txt", "a")
    empty_archive.publish("000001")
    write_mirror_file(empty_archive, "page_size = 1\n")
    assert small_archive_harness.sync()[NAME].status == "ok"
    empty_archive.add_file("000001", "b.txt", "b")
    with empty_archive.fault("status", path="/versions/$", page=2, status=404) as fault:
        for names in ((), (NAME,)):
            result = small_archive_harness.sync(*names)[NAME]
            assert (result.status, result.visit) == ("error", "failed")
            assert "page 2" in result.message
    assert fault.struck
    with small_archive_harness.index() as index:
        assert not list(index.crawl.events(NAME))
    assert small_archive_harness.sync()[NAME].status == "ok"


def test_a_row_that_slips_between_pages_is_not_lost_though_the_count_stays(
    small_archive_harness: MirrorHarness, empty_archive: DemoArchive
) -> None:
    empty_archive.create_dandiset(Description("Moving"))
    for name in "abcdef":
        empty_archive.add_file("000001", f"{name}.txt", name)
    write_mirror_file(empty_archive, "page_size = 2\n")

    # after page 1 was read, all rows move up by one, and one is added at the end
    def move() -> None:
        empty_archive.remove_file("000001", "a.txt")
        empty_archive.add_file("000001", "g.txt")

    with empty_archive.fault(and_then(move), page=1, times=1):
        result = small_archive_harness.sync()[NAME]
    assert (result.status, result.visit) == ("ok", "full")
    with small_archive_harness.index() as index:
        assert [
            one.path for one in index.files.of(index.versions.resolve(NAME))
        ] == empty_archive.paths("000001")


@pytest.mark.parametrize("name", ["a-{}.txt", "z-{}.txt"])
def test_a_draft_that_grows_at_each_request_is_mirrored_as_it_was(
    small_archive_harness: MirrorHarness, empty_archive: DemoArchive, name: str
) -> None:
    empty_archive.create_dandiset(Description("Being uploaded"))
    old = [f"old-{number}.txt" for number in range(6)]
    for path in old:
        empty_archive.add_file("000001", path, path)
    write_mirror_file(empty_archive, "page_size = 2\n")
    numbers = count(1)

    def grow() -> None:
        empty_archive.add_file("000001", name.format(next(numbers)))

    with empty_archive.fault(and_then(grow)) as fault:
        result = small_archive_harness.sync()[NAME]
    assert (result.status, result.visit) == ("ok", "full"), result.message
    assert fault.struck > 3
    added = [path for path in empty_archive.paths("000001") if path not in old]
    with small_archive_harness.index() as index:
        mirrored = [one.path for one in index.files.of(index.versions.resolve(NAME))]
    # all files of one moment, although more were added meanwhile
    new = sorted({*mirrored} - {*old}, key=lambda path: int(path[2:-4]))
    assert sorted([*old, *new]) == mirrored
    assert new == sorted(added, key=lambda path: int(path[2:-4]))[: len(new)]
    assert len(new) < len(added)
    assert small_archive_harness.sync()[NAME].status == "ok"
    with small_archive_harness.index() as index:
        files = [one.path for one in index.files.of(index.versions.resolve(NAME))]
    assert files == empty_archive.paths("000001")


def test_a_draft_that_loses_files_at_each_request_is_changing_and_no_failure(
    small_archive_harness: MirrorHarness, empty_archive: DemoArchive
) -> None:
    empty_archive.create_dandiset(Description("Being cleaned up"))
    for number in range(20):
        empty_archive.add_file("000001", f"{number:02}.txt", str(number))
    write_mirror_file(empty_archive, "page_size = 2\n")

    def shrink() -> None:
        empty_archive.remove_file("000001", empty_archive.paths("000001")[0])

    with empty_archive.fault(and_then(shrink)):
        result = small_archive_harness.sync()[NAME]
    assert (result.status, result.visit, result.exit_code) == ("notneeded", "waiting", 0)
    assert "changing" in result.message
    assert small_archive_harness.sync()[NAME].status == "ok"
    # a list that contradicts a summary which stays the same is still a failure
    empty_archive.add_file("000001", "new.txt", "new")
    with empty_archive.fault(lost_page, page=1):
        assert small_archive_harness.sync()[NAME].visit == "failed"


# --- changes that the overview does not show


def test_publishing_rewrites_assets_and_makes_no_new_state_of_the_draft(
    small_archive_harness: MirrorHarness, empty_archive: DemoArchive
) -> None:
    empty_archive.create_dandiset(Description("To be published"))
    empty_archive.add_file("000001", "a.txt", "a")
    write_mirror_file(empty_archive)
    small_archive_harness.sync()
    (draft,) = labels(small_archive_harness)
    asset = empty_archive.dandisets["000001"].draft.assets["a.txt"]
    before = asset.modified
    label = empty_archive.publish("000001")
    assert asset.modified > before
    assert small_archive_harness.sync()[NAME].versions == (label,)
    assert sorted(labels(small_archive_harness)) == sorted([draft, label])


def test_a_quiet_change_in_a_zarr_is_found_by_a_deep_sync(
    small_archive_harness: MirrorHarness, images: DemoArchive
) -> None:
    """Only the checksum changes, not time or size; the list of dandisets shows nothing."""
    small_archive_harness.sync()
    images.change_zarr("000001", ZARR, "0/0/0", b"other" + bytes(59), quiet=True)
    assert small_archive_harness.sync()[NAME].message == "unchanged"
    assert small_archive_harness.sync(deep=True)[NAME].status == "ok"
    zarr_id = images.find_zarr("000001", ZARR).zarr_id
    assert len(labels(small_archive_harness, f"demo:zarr/{zarr_id}")) == 2
    images.change_zarr("000001", ZARR, "0/0/0", None, quiet=True)
    small_archive_harness.sync(deep=True)
    with small_archive_harness.index() as index:
        (part,) = index.versions.subdatasets(index.versions.resolve(NAME))
    assert part.files == len(images.find_zarr("000001", ZARR).entries)


def test_a_quiet_fix_of_metadata_is_found_by_a_deep_sync(
    small_archive_harness: MirrorHarness, images: DemoArchive
) -> None:
    small_archive_harness.sync()
    draft = images.dandisets["000001"].draft
    draft.description = replace(draft.description, text="A fix that moved no time")
    assert small_archive_harness.sync()[NAME].message == "unchanged"
    assert small_archive_harness.sync(deep=True)[NAME].status == "ok"
    with small_archive_harness.index() as index:
        assert [one.metadata_only for one in index.versions.of(NAME)] == [False, True]
    assert "A fix that moved no time" in run_git(
        small_archive_harness.repository(NAME), "show", "main:dandiset.yaml"
    )


# --- retention


def test_an_old_state_of_a_zarr_is_got_by_the_versions_of_its_objects(
    small_archive_harness: MirrorHarness,
    images: DemoArchive,
    serve_directory: Serve,
    tmp_path: Path,
) -> None:
    small_archive_harness.sync()
    zarr = images.find_zarr("000001", ZARR)
    old = {name: one.data for name, one in zarr.entries.items()}
    images.change_zarr("000001", ZARR, "0/0/0", b"other" * 4)
    images.change_zarr("000001", ZARR, "0/0/1", None)
    assert small_archive_harness.sync()[NAME].status == "ok"
    first, second = labels(small_archive_harness, f"demo:zarr/{zarr.zarr_id}")
    images.expire_blobs()
    address, clone = serve_directory(small_archive_harness.folder), tmp_path / "clone"
    alias = f"{address}/alias/demo--zarr--{zarr.zarr_id}"
    run(tmp_path, "git", "clone", "-q", alias, str(clone))
    new = {name: one.data for name, one in zarr.entries.items()}
    for label, expected in ((first, old), (second, new)):
        run(clone, "git", "checkout", "-q", label)
        run(clone, "git", "annex", "get", "--quiet", ".")
        assert {name: (clone / name).read_bytes() for name in expected} == expected
        assert count_verified_files(clone) == len(expected)


def test_a_clone_follows_a_changed_zarr(
    small_archive_harness: MirrorHarness,
    images: DemoArchive,
    serve_directory: Serve,
    tmp_path: Path,
) -> None:
    """The states of a Zarr have no common history: a clone takes the linked one."""
    small_archive_harness.sync()
    clone = tmp_path / "clone"
    address = f"{serve_directory(small_archive_harness.folder)}/alias/demo--000001"
    run(tmp_path, "git", "clone", "-q", address, str(clone))
    run(clone, "datalad", "get", "-n", ZARR)
    images.change_zarr("000001", ZARR, "0/0/0", b"other" * 4)
    assert small_archive_harness.sync()[NAME].status == "ok"
    onward = ("--how", "merge", "--how-subds", "reset", "--follow", "parentds")
    run(clone, "datalad", "update", "-r", *onward)
    run(clone / ZARR, "git", "annex", "get", "0/0/0")
    assert (clone / ZARR / "0/0/0").read_bytes() == b"other" * 4
    assert run(clone, "git", "status", "--porcelain") == ""


def test_the_retention_of_each_file_is_in_the_index_and_shown(
    small_archive_harness: MirrorHarness, empty_archive: DemoArchive
) -> None:
    empty_archive.create_dandiset(Description("Of every kind"))
    empty_archive.add_file("000001", "published.txt", "p")
    empty_archive.publish("000001")
    empty_archive.add_file("000001", "draft.txt", "d")
    empty_archive.add_zarr("000001", "small.zarr", {".zgroup": b'{"zarr_format": 2}'})
    write_mirror_file(empty_archive)
    small_archive_harness.sync()
    with small_archive_harness.index() as index:
        kept = {
            one.path: one.retention for one in index.files.of(index.versions.resolve(NAME, "draft"))
        }
    assert kept == {
        "published.txt": Retention.PUBLISHED,
        "draft.txt": Retention.DRAFT,
        "small.zarr/.zgroup": Retention.VERSIONED_BUCKET,
    }
    records = [
        json.loads(line)
        for line in command_output(
            small_archive_harness, "--json", "files", f"{NAME}@draft"
        ).splitlines()
    ]
    assert {one["path"]: one["retention"] for one in records if "retention" in one} == kept
    shown = ("show", f"{NAME}@draft")
    record = json.loads(command_output(small_archive_harness, "--json", *shown))
    assert record["retention"] == {"draft": 1, "published": 1, "versioned-bucket": 1}
    printed = command_output(small_archive_harness, *shown)
    assert "1 draft, 1 published, 1 versioned-bucket" in printed


def test_a_replaced_blob_of_a_draft_may_be_deleted_and_published_ones_are_not(
    small_archive_harness: MirrorHarness, empty_archive: DemoArchive, tmp_path: Path
) -> None:
    empty_archive.create_dandiset(Description("Replaced"))
    for name in ("a.txt", "b.txt"):
        empty_archive.add_file("000001", name, f"published {name}\n")
    published = empty_archive.publish("000001")
    empty_archive.change_file("000001", "a.txt", "draft a\n")
    write_mirror_file(empty_archive)
    small_archive_harness.sync()
    draft = labels(small_archive_harness)[-1]
    empty_archive.change_file("000001", "a.txt", "draft a, again\n")
    small_archive_harness.sync()
    assert empty_archive.expire_blobs() == 1
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(small_archive_harness.repository(NAME)), str(clone))
    run(clone, "git", "checkout", "-q", draft)
    run(clone, "git", "annex", "get", "a.txt", code=1)
    run(clone, "git", "annex", "get", "b.txt")
    for label in (published, labels(small_archive_harness)[-1]):
        run(clone, "git", "checkout", "-q", label)
        run(clone, "git", "annex", "get", ".")
    # the mirror is unchanged, and reports the retention
    assert small_archive_harness.sync(deep=True)[NAME].exit_code == 0
    with small_archive_harness.index() as index:
        (gone,) = (
            one
            for one in index.files.of(index.versions.resolve(NAME, draft))
            if one.path == "a.txt"
        )
    assert gone.retention is Retention.DRAFT


# --- unpublished and deleted


def test_a_version_that_is_unpublished_is_an_incident_and_stays(
    small_archive_harness: MirrorHarness, empty_archive: DemoArchive
) -> None:
    empty_archive.create_dandiset(Description("Taken back"))
    empty_archive.add_file("000001", "a.txt", "a")
    first = empty_archive.publish("000001")
    empty_archive.add_file("000001", "b.txt", "b")
    second = empty_archive.publish("000001")
    write_mirror_file(empty_archive)
    small_archive_harness.sync()
    refs = small_archive_harness.refs()
    # the newest version shows in the list of dandisets; an older one only in a deep sync
    empty_archive.unpublish("000001", second)
    result = small_archive_harness.sync()[NAME]
    assert (result.status, result.exit_code) == ("error", 1)
    assert f"published version {second} is no longer listed upstream" in result.message
    empty_archive.unpublish("000001", first)
    assert first in small_archive_harness.sync(deep=True)[NAME].message
    kept = {
        name: commit for name, commit in small_archive_harness.refs().items() if "000001" in name
    }
    assert kept == {name: commit for name, commit in refs.items() if "000001" in name}
    with small_archive_harness.index() as index:
        events = list(index.crawl.events(NAME))
    assert {event.kind for event in events} == {"incident"}
    assert len(events) == 2
    (line,) = command_output(
        small_archive_harness, "--json", "reproduce", f"{NAME}@{first}", code=1
    ).splitlines()
    assert json.loads(line)["status"] == "impossible"


def test_list_and_show_report_that_a_dandiset_was_deleted(
    small_archive_harness: MirrorHarness, images: DemoArchive
) -> None:
    small_archive_harness.sync()
    images.delete_dandiset("000001")
    assert small_archive_harness.sync()[NAME].visit == "not_found"
    for command in (("list",), ("show", NAME)):
        (record,) = map(
            json.loads, command_output(small_archive_harness, "--json", *command).splitlines()
        )
        assert record["removed"] is True
        assert "removed upstream" in command_output(small_archive_harness, *command)


# --- secrets


def test_an_archive_for_members_is_never_in_the_public_store(embargo: EmbargoHarness) -> None:
    """Like LINC, where every request needs a token although all dandisets are called open."""
    embargo.demo.members_only = True
    embargo.write_mirror_file('embargoed = "all"', private=False)
    refused = embargo.sync(code=2, token="")
    assert "DEMO_TOKEN" in refused
    assert '"skip"' not in refused
    embargo.sync()
    embargo.demo.add_file("000001", "more-of-members.txt", "more\n")
    embargo.sync()
    embargo.sync("demo:000001")
    embargo.assert_no_canary_outside()
    everything = b"\n".join(contents(embargo.public)) + "\n".join(embargo.output).encode()
    for secret in (b"open.txt", b"An open one", b"more-of-members"):
        assert secret not in everything
    assert "more-of-members.txt" in embargo.run_on_private_store("files", "demo:000001")
    assert set(embargo.locations(embargo.private)) == {("api-private", None)}
    # nothing is moved, unlike at the end of an embargo
    assert "demo:000001" not in embargo.run("list")


def test_an_embargoed_dandiset_is_reproduced_only_in_the_private_store(
    embargo: EmbargoHarness,
) -> None:
    embargo.sync()
    (label,) = embargo.commits(embargo.private)
    kept = embargo.folder / "kept"
    output = embargo.run_on_private_store("reproduce", "--keep", str(kept), f"{EMBARGOED}@{label}")
    assert output.startswith(f"ok         {EMBARGOED}@{label}")
    assert kept.stat().st_mode & 0o077 == 0
    embargo.run("reproduce", f"{EMBARGOED}@{label}", code=2)
    embargo.run("reproduce", f"{NAME}@draft")
    embargo.assert_no_canary_outside()


def test_signed_urls_and_passwords_are_stored_nowhere(
    small_archive_harness: MirrorHarness, empty_archive: DemoArchive
) -> None:
    secret = "https://me:hunter2@h/x and https://h/y?X-Amz-Signature=5ee5ee&X-Amz-Date=1"
    empty_archive.create_dandiset(
        Description(f"Title {secret}", f"Text {secret}", keywords=(secret,))
    )
    empty_archive.add_file("000001", "a.txt", "a")
    empty_archive.publish("000001")
    write_mirror_file(empty_archive)
    small_archive_harness.sync()
    printed = "".join(
        command_output(small_archive_harness, *one)
        for one in (("list",), ("show", NAME), ("--json", "list"))
    )
    assert "Title https://h/x and https://h/y" in printed
    everything = b"\n".join(contents(small_archive_harness.folder)) + printed.encode()
    assert [fragment for fragment in (b"hunter2", b"5ee5ee") if fragment in everything] == []
