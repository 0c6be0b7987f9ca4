"""What is known to mislead mirrors of a DANDI archive, each by name, from sync to clone."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from crawl_place import Place, git
from embargo_place import NAME as EMBARGOED
from embargo_place import Embargo, contents

from neuromirror.cli import main
from neuromirror.model import Retention
from neuromirror_demo import LATE, DemoArchive
from neuromirror_demo.records import Description
from neuromirror_demo.zarr_contents import ODD_PATHS, image_entries, odd_entries

NAME = "demo:000001"
ZARR = "sub-1/sub-1_photo.ome.zarr"
LIMITS = "[zarr]\ninline_parts = 30\n"
Serve = Callable[[Path], str]


def settle(demo: DemoArchive, more: str = LIMITS) -> None:
    """Writes the mirror file; by default with Zarrs of 40 entries as datasets of their own."""
    options = f'source = "dandi"\n[options]\napi = "{demo.api_url}"\n{more}'
    (demo.mirrors / "demo.toml").write_text(options)


@pytest.fixture
def images(small: DemoArchive) -> DemoArchive:
    """An archive of one dandiset with one Zarr, which is a dataset of its own, and a file."""
    small.create_dandiset(Description("Images"))
    small.add_zarr("000001", ZARR, image_entries(2, 40))
    small.add_file("000001", "notes.txt", "first\n")
    settle(small)
    return small


@pytest.fixture
def here(small: DemoArchive, tmp_path: Path) -> Place:
    """An empty place for a store, beside a small archive."""
    return Place(small.mirrors, tmp_path / "here")


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def said(place: Place, *arguments: str, code: int = 0) -> str:
    """What a command prints about a store."""
    named = ["--mirrors", str(place.mirrors), "--store", str(place.folder)]
    done = CliRunner().invoke(main, [*named, *arguments], catch_exceptions=False)
    assert done.exit_code == code, done.stdout + done.stderr
    return done.stdout


def labels(place: Place, dataset: str = NAME) -> list[str]:
    with place.index() as index:
        return [one.label for one in index.versions(dataset)]


def bytes_of(demo: DemoArchive, dandiset: str) -> dict[str, bytes]:
    """All files by path of what a dandiset's name means, those of its Zarrs too."""
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


def checked(clone: Path) -> int:
    """How many files git-annex finds right, here and in all datasets below; none is wrong."""
    found = run(clone, "git", "submodule", "foreach", "--recursive", "-q", "git annex fsck --json")
    if (clone / ".git" / "annex").exists():  # a super-dataset has no files of its own
        found += run(clone, "git", "annex", "fsck", "--json")
    results = [json.loads(line)["success"] for line in found.splitlines()]
    assert all(results)
    return len(results)


def assert_zarrs_open(clone: Path, paths: list[str]) -> None:
    """zarr reads every array of them."""
    import numpy
    import zarr

    def read(node: zarr.Group | zarr.Array) -> int:
        if isinstance(node, zarr.Array):
            return int(numpy.asarray(node[...]).size > 0)
        return sum(read(node[name]) for name in node)

    for path in paths:
        assert read(zarr.open(store=str(clone / path), mode="r")) >= 1, path


# --- everything


@pytest.mark.slow
def test_the_whole_archive_is_mirrored_cloned_got_checked_and_read(
    place: Place, demo: DemoArchive, serve: Serve, tmp_path: Path
) -> None:
    zarrs = demo.add_zarrs()
    settle(demo, "")
    wrong = zarrs["wrong"]["dandiset"]
    results = place.sync()
    assert [name for name, one in results.items() if one.exit_code] == [f"demo:{wrong}"]
    wanted: dict[str, bytes] = {}
    for dandiset, found in demo.dandisets.items():
        if found.embargoed:
            continue
        files = bytes_of(demo, dandiset)
        with place.index() as index:
            row = index.resolve(f"demo:{dandiset}")
            left_out = {one["path"] for one in index.exceptions(row)}
            parts = list(index.parts(row))
            mirrored = {one.source_path.decode() for one in index.files(row)}
            for part in parts:
                inside = index.files(index.resolve(part.dataset, part.commit))
                mirrored |= {
                    f"{part.source_path.decode()}/{one.source_path.decode()}" for one in inside
                }
        # listed = committed + named exceptions
        assert left_out == ({zarrs["wrong"]["path"]} if dandiset == wrong else set())
        files = {path: data for path, data in files.items() if not path.startswith(tuple(left_out))}
        assert mirrored == files.keys()
        wanted |= {f"{dandiset}/{path}": data for path, data in files.items()}
    assert len(wanted) > 2700
    clone = tmp_path / "clone"
    run(tmp_path, "datalad", "clone", f"{serve(place.folder)}/alias/demo", str(clone))
    run(clone, "datalad", "get", "-n", "-r", ".")
    run(clone, "git", "submodule", "foreach", "--recursive", "-q", "git annex get -q -J2 .")
    assert {path: (clone / path).read_bytes() for path in wanted} == wanted
    assert checked(clone) == len(wanted)
    assert run(clone, "git", "status", "--porcelain") == ""
    closed = ("closed", "wrong")
    paths = [f"{one['dandiset']}/{one['path']}" for key, one in zarrs.items() if key not in closed]
    assert_zarrs_open(clone, paths)


def test_odd_names_are_mirrored_got_checked_and_read(
    here: Place, small: DemoArchive, serve: Serve, tmp_path: Path
) -> None:
    """Blanks, brackets, case twins, dot files, names like options."""
    small.create_dandiset(Description("Odd names"))
    assert "a #1 & b+c=d~e (f),g.txt" in ODD_PATHS
    for path in (*ODD_PATHS, r"back\slash.txt", ".gitattributes", "sub/.datalad/config"):
        small.add_file("000001", path, f"This is {path}\n")
    small.add_zarr("000001", "Twin/odd (1).zarr", odd_entries())
    small.add_zarr("000001", "twin/odd (1).zarr", image_entries(3, 40))
    settle(small)
    assert here.sync()[NAME].status == "ok"
    assert here.sync()[NAME].status == "notneeded"
    clone = tmp_path / "clone"
    run(tmp_path, "datalad", "clone", f"{serve(here.folder)}/alias/demo--000001", str(clone))
    run(clone, "datalad", "get", "-r", ".")
    wanted = bytes_of(small, "000001")
    with here.index() as index:
        row = index.resolve(NAME)
        assert not index.exceptions(row)
        places = {one.source_path.decode(): one.path for one in index.files(row)}
        assert [one.source_path.decode() for one in index.parts(row)] == ["twin/odd (1).zarr"]
    escaped = {path for path in places if places[path] != path}
    assert escaped == {r"back\slash.txt", ".gitattributes", "sub/.datalad/config"}
    found = {path: (clone / places.get(path, path)).read_bytes() for path in wanted}
    assert found == wanted
    assert checked(clone) == len(wanted)
    assert_zarrs_open(clone, ["Twin/odd (1).zarr", "twin/odd (1).zarr"])


def test_only_what_can_be_trusted_is_asked(place: Place, demo: DemoArchive) -> None:
    """No nested asset, prefix or glob, no signed address, no Zarr's own list, no missing slash.

    A nested address does not check that the asset is in the version, ``path=`` is blind to case,
    ``glob`` crosses folders, the list of a Zarr's files finds ``10/`` for ``1/``, a Zarr's prefix
    is no object, and what lacks its last slash is moved.
    """
    demo.add_zarrs()
    settle(demo, "")
    place.sync(deep=True, history=True)
    place.sync(deep=True)
    of_api = (
        r"GET /api/(info/|dandisets/(\?ordering=id&.*)?|dandisets/\d{6}/"
        r"|dandisets/\d{6}/versions/\?order=created&.*|dandisets/\d{6}/versions/[0-9a-z.]+/info/"
        r"|dandisets/\d{6}/versions/[0-9a-z.]+/assets/\?metadata=true&order=path&.*"
        r"|zarr/[0-9a-f-]{36}/)|HEAD /api/zarr/[0-9a-f-]{36}/files/\?prefix=zarr.json"
    )
    assert demo.requests
    assert [one for one in demo.requests if not re.fullmatch(of_api, one)] == []
    assert not any("path=" in one.replace("order=path", "") for one in demo.requests)
    of_bucket = r"(HEAD|GET) /demo-dandiarchive/(blobs/.*[^/]|zarr/[0-9a-f-]{36}/[^?].*|\?.*)?"
    assert [one for one in demo.s3_requests if not re.fullmatch(of_bucket, one)] == []
    assert not any(one.startswith("GET /demo-dandiarchive/blobs/") for one in demo.s3_requests)


# --- lists


def test_a_page_past_the_end_is_no_tombstone(here: Place, small: DemoArchive) -> None:
    small.create_dandiset(Description("Published"))
    small.add_file("000001", "a.txt", "a")
    small.publish("000001")
    settle(small, "page_size = 1\n")
    assert here.sync()[NAME].status == "ok"
    small.add_file("000001", "b.txt", "b")
    with small.fault("status", path="/versions/$", page=2, status=404) as fault:
        for names in ((), (NAME,)):
            result = here.sync(*names)[NAME]
            assert (result.status, result.visit) == ("error", "failed")
            assert "page 2 was promised" in result.message
    assert fault.struck
    with here.index() as index:
        assert not list(index.events(NAME))
    assert here.sync()[NAME].status == "ok"


def test_a_row_that_slips_between_pages_is_not_lost_though_the_count_stays(
    here: Place, small: DemoArchive
) -> None:
    small.create_dandiset(Description("Moving"))
    for name in "abcdef":
        small.add_file("000001", f"{name}.txt", name)
    settle(small, "page_size = 2\n")
    # Once page 1 was read, all rows move up by one, and one more comes at the end.
    with (
        small.fault("mutate_while_listing", action="remove", file="a.txt"),
        small.fault("mutate_while_listing", action="add", file="g.txt"),
    ):
        result = here.sync()[NAME]
    assert (result.status, result.visit) == ("ok", "full")
    with here.index() as index:
        assert [one.path for one in index.files(index.resolve(NAME))] == small.paths("000001")


# --- what changes, and is not told


def test_a_late_sha256_moves_no_time_and_is_a_state_of_its_own(
    place: Place, demo: DemoArchive
) -> None:
    name = "demo:000004"
    place.sync(name)
    draft = demo.dandisets["000004"].draft
    times = (draft.assets[LATE].modified, draft.modified)
    demo.reveal_sha256("000004", LATE)
    assert (draft.assets[LATE].modified, draft.modified) == times
    assert place.sync()[name].status == "ok"
    first, second = labels(place, name)
    assert second.startswith(first)
    with place.index() as index:
        evidence = [one.evidence for one in index.versions(name)]
    assert evidence == [{"etag": 1, "sha256": 2}, {"sha256": 3}]


def test_publishing_rewrites_assets_and_makes_no_new_state_of_the_draft(
    here: Place, small: DemoArchive
) -> None:
    small.create_dandiset(Description("To be published"))
    small.add_file("000001", "a.txt", "a")
    settle(small)
    here.sync()
    (draft,) = labels(here)
    asset = small.dandisets["000001"].draft.assets["a.txt"]
    before = asset.modified
    label = small.publish("000001")
    assert asset.modified > before
    assert here.sync()[NAME].versions == (label,)
    assert sorted(labels(here)) == sorted([draft, label])


def test_a_quiet_change_in_a_zarr_is_found_by_a_deep_sync(here: Place, images: DemoArchive) -> None:
    """Neither time nor size moves, only the checksum; the list of dandisets tells nothing."""
    here.sync()
    images.change_zarr("000001", ZARR, "0/0/0", b"other" + bytes(59), quiet=True)
    assert here.sync()[NAME].message == "unchanged"
    assert here.sync(deep=True)[NAME].status == "ok"
    zarr_id = images.zarr_of("000001", ZARR).zarr_id
    assert len(labels(here, f"demo:zarr/{zarr_id}")) == 2
    images.change_zarr("000001", ZARR, "0/0/0", None, quiet=True)
    here.sync(deep=True)
    with here.index() as index:
        (part,) = index.parts(index.resolve(NAME))
    assert part.files == len(images.zarr_of("000001", ZARR).entries)


def test_a_quiet_fix_of_metadata_is_found_by_a_deep_sync(here: Place, images: DemoArchive) -> None:
    here.sync()
    draft = images.dandisets["000001"].draft
    draft.description = replace(draft.description, text="A fix that moved no time")
    assert here.sync()[NAME].message == "unchanged"
    assert here.sync(deep=True)[NAME].status == "ok"
    with here.index() as index:
        assert [one.metadata_only for one in index.versions(NAME)] == [False, True]
    assert "A fix that moved no time" in git(here.repository(NAME), "show", "main:dandiset.yaml")


# --- what upstream keeps


def test_an_old_state_of_a_zarr_is_got_by_the_versions_of_its_objects(
    here: Place, images: DemoArchive, serve: Serve, tmp_path: Path
) -> None:
    here.sync()
    zarr = images.zarr_of("000001", ZARR)
    old = {name: one.data for name, one in zarr.entries.items()}
    images.change_zarr("000001", ZARR, "0/0/0", b"other" * 4)
    images.change_zarr("000001", ZARR, "0/0/1", None)
    assert here.sync()[NAME].status == "ok"
    first, second = labels(here, f"demo:zarr/{zarr.zarr_id}")
    images.expire_blobs()
    address, clone = serve(here.folder), tmp_path / "clone"
    alias = f"{address}/alias/demo--zarr--{zarr.zarr_id}"
    run(tmp_path, "datalad", "clone", alias, str(clone))
    new = {name: one.data for name, one in zarr.entries.items()}
    for label, wanted in ((first, old), (second, new)):
        run(clone, "git", "checkout", "-q", label)
        run(clone, "git", "annex", "get", "--quiet", ".")
        assert {name: (clone / name).read_bytes() for name in wanted} == wanted
        assert checked(clone) == len(wanted)


def test_a_clone_goes_on_with_a_zarr_that_changed(
    here: Place, images: DemoArchive, serve: Serve, tmp_path: Path
) -> None:
    """The states of a Zarr have no common history: a clone takes what its dandiset links."""
    here.sync()
    clone = tmp_path / "clone"
    run(tmp_path, "datalad", "clone", f"{serve(here.folder)}/alias/demo", str(clone))
    run(clone, "datalad", "get", "-n", "-r", ".")
    images.change_zarr("000001", ZARR, "0/0/0", b"other" * 4)
    assert here.sync()[NAME].status == "ok"
    onward = ("--how", "merge", "--how-subds", "reset", "--follow", "parentds")
    run(clone, "datalad", "update", "-r", *onward)
    run(clone, "datalad", "get", f"000001/{ZARR}/0/0/0")
    assert (clone / "000001" / ZARR / "0/0/0").read_bytes() == b"other" * 4
    assert run(clone, "git", "status", "--porcelain") == ""


def of_every_kind(here: Place, small: DemoArchive) -> None:
    small.create_dandiset(Description("Of every kind"))
    small.add_file("000001", "published.txt", "p")
    small.publish("000001")
    small.add_file("000001", "draft.txt", "d")
    small.add_zarr("000001", "small.zarr", {".zgroup": b'{"zarr_format": 2}'})
    settle(small)
    here.sync()


def test_the_index_tells_how_long_upstream_keeps_the_bytes(here: Place, small: DemoArchive) -> None:
    of_every_kind(here, small)
    with here.index() as index:
        kept = {one.path: one.retention for one in index.files(index.resolve(NAME, "draft"))}
    assert kept == {
        "published.txt": Retention.PUBLISHED,
        "draft.txt": Retention.DRAFT,
        "small.zarr/.zgroup": Retention.VERSIONED_BUCKET,
    }
    told = [json.loads(one) for one in said(here, "--json", "files", f"{NAME}@draft").splitlines()]
    assert {one["path"]: one["retention"] for one in told} == kept


def test_show_tells_how_long_upstream_keeps_the_bytes(here: Place, small: DemoArchive) -> None:
    of_every_kind(here, small)
    (record,) = map(json.loads, said(here, "--json", "show", f"{NAME}@draft").splitlines())
    assert record["retention"] == {"draft": 1, "published": 1, "versioned-bucket": 1}
    assert "1 draft, 1 published, 1 versioned-bucket" in said(here, "show", f"{NAME}@draft")


def test_a_replaced_blob_of_a_draft_may_die_and_published_ones_do_not(
    here: Place, small: DemoArchive, tmp_path: Path
) -> None:
    small.create_dandiset(Description("Replaced"))
    for name in ("a.txt", "b.txt"):
        small.add_file("000001", name, f"published {name}\n")
    published = small.publish("000001")
    small.change_file("000001", "a.txt", "draft a\n")
    settle(small)
    here.sync()
    draft = labels(here)[-1]
    small.change_file("000001", "a.txt", "draft a, again\n")
    here.sync()
    assert small.expire_blobs() == 1
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(here.repository(NAME)), str(clone))
    run(clone, "git", "checkout", "-q", draft)
    run(clone, "git", "annex", "get", "a.txt", code=1)
    run(clone, "git", "annex", "get", "b.txt")
    for label in (published, labels(here)[-1]):
        run(clone, "git", "checkout", "-q", label)
        run(clone, "git", "annex", "get", ".")
    # the mirror itself is as it was, and says what it knows
    assert here.sync(deep=True)[NAME].exit_code == 0
    with here.index() as index:
        (gone,) = (one for one in index.files(index.resolve(NAME, draft)) if one.path == "a.txt")
    assert gone.retention is Retention.DRAFT


# --- what is taken back


def test_a_version_that_is_unpublished_is_an_incident_and_stays(
    here: Place, small: DemoArchive
) -> None:
    small.create_dandiset(Description("Taken back"))
    small.add_file("000001", "a.txt", "a")
    first = small.publish("000001")
    small.add_file("000001", "b.txt", "b")
    second = small.publish("000001")
    settle(small)
    here.sync()
    refs = here.refs()
    # the newest one moves the list of dandisets; an older one is found by a deep sync
    small.unpublish("000001", second)
    result = here.sync()[NAME]
    assert (result.status, result.exit_code) == ("error", 1)
    assert f"published version {second} is no longer listed upstream" in result.message
    small.unpublish("000001", first)
    assert first in here.sync(deep=True)[NAME].message
    kept = {name: commit for name, commit in here.refs().items() if "000001" in name}
    assert kept == {name: commit for name, commit in refs.items() if "000001" in name}
    with here.index() as index:
        events = list(index.events(NAME))
    assert {one.kind for one in events} == {"incident"}
    assert len(events) == 2
    (told,) = said(here, "--json", "reproduce", f"{NAME}@{first}", code=1).splitlines()
    assert json.loads(told)["status"] == "impossible"


def test_list_and_show_tell_that_a_dandiset_is_gone(here: Place, images: DemoArchive) -> None:
    here.sync()
    images.delete_dandiset("000001")
    assert here.sync()[NAME].visit == "not_found"
    for command in (("list",), ("show", NAME)):
        (record,) = map(json.loads, said(here, "--json", *command).splitlines())
        assert record["gone"] is True
        assert "gone" in said(here, *command)


# --- secrets


def test_of_an_archive_for_members_nothing_is_in_the_public_store(embargo: Embargo) -> None:
    """As LINC's, whose every answer takes a token, though all that it has is called open."""
    embargo.demo.members_only = True
    embargo.mirror('embargoed = "all"', private=False)
    refused = embargo.sync(code=2, token="")
    assert "DEMO_TOKEN" in refused
    assert '"skip"' not in refused
    embargo.sync()
    embargo.demo.add_file("000001", "more-of-members.txt", "more\n")
    embargo.sync()
    embargo.sync("demo:000001")
    embargo.assert_silent()
    everything = b"\n".join(contents(embargo.public)) + "\n".join(embargo.said).encode()
    for word in (b"open.txt", b"An open one", b"more-of-members"):
        assert word not in everything
    assert "more-of-members.txt" in embargo.inside("files", "demo:000001")
    assert set(embargo.locations(embargo.private)) == {("api", None)}
    # nothing moves over, as it does when an embargo ends
    assert "demo:000001" not in embargo.run("list")


def test_what_is_under_embargo_is_reproduced_in_the_private_store_alone(embargo: Embargo) -> None:
    embargo.sync()
    (label,) = embargo.commits(embargo.private)
    kept = embargo.folder / "kept"
    told = embargo.inside("reproduce", "--keep", str(kept), f"{EMBARGOED}@{label}")
    assert told.count("the same") >= 3
    assert kept.stat().st_mode & 0o077 == 0
    embargo.run("reproduce", f"{EMBARGOED}@{label}", code=2)
    embargo.run("reproduce", f"{NAME}@draft")
    embargo.assert_silent()


def test_signed_addresses_and_passwords_get_nowhere(here: Place, small: DemoArchive) -> None:
    secret = "https://me:hunter2@h/x and https://h/y?X-Amz-Signature=5ee5ee&X-Amz-Date=1"
    small.create_dandiset(Description(f"Title {secret}", f"Text {secret}", keywords=(secret,)))
    small.add_file("000001", "a.txt", "a")
    small.publish("000001")
    settle(small)
    here.sync()
    printed = "".join(said(here, *one) for one in (("list",), ("show", NAME), ("--json", "list")))
    assert "Title https://h/x and https://h/y" in printed
    everything = b"\n".join(contents(here.folder)) + printed.encode()
    assert [word for word in (b"hunter2", b"5ee5ee") if word in everything] == []
