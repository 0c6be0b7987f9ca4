"""Embargoed dandisets: skipped, or mirrored privately, and never shown."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.crawl import visit
from neuromirror.store import Store
from neuromirror_demo.archive_contents import zarr_entries
from neuromirror_demo.documents import DandiDocuments
from neuromirror_demo.records import Dandiset
from support.embargo_harness import (
    FOLDER,
    ID,
    NAME,
    TITLE,
    EmbargoHarness,
    contents,
    entries,
)

# --- skipped by default


@pytest.mark.parametrize("token", ["", None])
def test_by_default_it_is_skipped_and_only_its_name_is_reported(
    embargo: EmbargoHarness, token: str | None
) -> None:
    embargo.write_mirror_file(private=False)
    printed = embargo.run("sync", token=token)
    if token is None:  # the list shows its name to its owners
        assert embargo.embargoed_line(printed) == f"notneeded {NAME} embargoed"
    assert embargo.embargoed_line(embargo.run("sync", NAME, token=token)).endswith(
        f"{NAME} embargoed"
    )
    assert embargo.embargoed_line(embargo.run("sync", NAME, "--dry-run", token=token)).endswith(
        "embargoed"
    )
    embargo.run("--json", "sync", "--deep", token=token)
    embargo.assert_no_canary_outside()
    assert not embargo.private.exists()
    assert entries(embargo, embargo.public) == []


@pytest.mark.parametrize("private", [False, True])
def test_one_that_is_called_open_but_refused_without_a_token_is_not_public(
    embargo: EmbargoHarness, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    """The archive's own word, given to the token, is not enough."""
    reported = DandiDocuments.dandiset_brief

    def called_open(documents: DandiDocuments, dandiset: Dandiset) -> dict[str, Any]:
        return {**reported(documents, dandiset), "embargo_status": "OPEN"}

    monkeypatch.setattr(DandiDocuments, "dandiset_brief", called_open)
    embargo.write_mirror_file(private=private)
    for names in ((), (NAME,)):
        assert embargo.embargoed_line(embargo.sync(*names)).startswith(f"notneeded {NAME}")
    embargo.assert_no_canary_outside()
    assert entries(embargo, embargo.public) == []
    # until it is public
    embargo.demo.unembargo(ID)
    embargo.sync()
    assert set(embargo.commits(embargo.public))


def test_the_canaries_are_found_where_they_are(embargo: EmbargoHarness) -> None:
    embargo.sync()
    missing = set(embargo.canaries()) - embargo.canaries_in(embargo.private)
    # credentials are in no file; the URLs of the API do not contain blob ids
    blobs = {one.blob.blob_id.encode() for one in embargo.demo.assets.values() if one.blob}
    assert missing - blobs == {embargo.demo.token.encode(), b"x-amz-", b"demoaccesskey"}


# --- mirrored privately


def test_with_a_token_it_is_mirrored_into_the_private_store(embargo: EmbargoHarness) -> None:
    printed = embargo.sync()
    assert embargo.embargoed_line(printed) == f"ok {NAME} embargoed: new state in the private store"
    embargo.assert_no_canary_outside()
    assert stat.S_IMODE(embargo.private.stat().st_mode) == 0o700
    assert {
        path for path in embargo.private.rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o077
    } == set()  # fmt: skip
    assert f"{FOLDER}/file.txt" in embargo.run_on_private_store("files", NAME)
    assert TITLE in embargo.run_on_private_store("show", NAME)
    assert TITLE in embargo.run_on_private_store("list")
    assert embargo.run_on_private_store("find", embargo.demo.sha256(ID, "notes.txt"))
    assert embargo.run_on_private_store("status")
    assert embargo.run_on_private_store("rebuild-index")
    assert embargo.run_on_private_store("housekeeping")
    embargo.run_on_private_store("holds")
    assert "open.txt" not in str(embargo.locations(embargo.private))
    repeated = embargo.sync()
    assert (
        embargo.embargoed_line(repeated)
        == f"notneeded {NAME} embargoed: the private store is up to date"
    )


def test_its_files_have_only_the_url_of_the_api(embargo: EmbargoHarness) -> None:
    embargo.sync()
    assert set(embargo.locations(embargo.private)) == {("api-private", None)}
    blobs = [
        one.blob.blob_id for one in embargo.demo.dandisets[ID].draft.assets.values() if one.blob
    ]
    assert not any(blob in request for request in embargo.demo.s3_requests for blob in blobs)


def test_an_unchanged_one_costs_no_request_of_its_own(embargo: EmbargoHarness) -> None:
    embargo.sync()
    embargo.demo.clear_requests()
    embargo.sync()
    assert embargo.demo.count_requests(f"dandisets/{ID}") == 0
    assert len(embargo.demo.requests) <= 5


def test_its_changes_are_versions_of_the_private_store(embargo: EmbargoHarness) -> None:
    embargo.sync()
    first = embargo.commits(embargo.private)
    embargo.demo.add_file(ID, f"{FOLDER}/more.txt", "more\n")
    assert "new state" in embargo.embargoed_line(embargo.sync())
    after = embargo.commits(embargo.private)
    assert first.items() < after.items()
    assert len(after) == 2
    embargo.assert_no_canary_outside()


def test_one_that_the_token_may_not_read_is_only_named(embargo: EmbargoHarness) -> None:
    printed = embargo.sync(NAME, token=embargo.demo.other_token, code=1)
    assert embargo.embargoed_line(printed).startswith(f"error {NAME} embargoed: failed")
    assert NAME in embargo.run_on_private_store("events")
    assert NAME not in embargo.sync(token=embargo.demo.other_token)
    embargo.assert_no_canary_outside()


def test_one_that_the_token_may_not_read_any_more_is_kept(embargo: EmbargoHarness) -> None:
    embargo.sync()
    commits = embargo.commits(embargo.private)
    printed = embargo.sync(token=embargo.demo.other_token, code=1)
    assert embargo.embargoed_line(printed).startswith(f"error {NAME} embargoed: failed")
    assert embargo.commits(embargo.private) == commits
    embargo.assert_no_canary_outside()


def test_one_that_is_deleted_upstream_is_kept(embargo: EmbargoHarness) -> None:
    embargo.sync()
    canaries = embargo.canaries()
    embargo.demo.delete_dandiset(ID)
    assert "new state" not in embargo.embargoed_line(embargo.sync(code=0))
    assert embargo.commits(embargo.private)
    assert "tombstone" in embargo.run_on_private_store("events")
    assert not any(canary in "\n".join(embargo.output).lower().encode() for canary in canaries)


def test_a_held_listing_is_released_in_the_private_store(embargo: EmbargoHarness) -> None:
    for number in range(12):
        embargo.demo.add_file(ID, f"{FOLDER}/{number}.txt", f"{number}\n")
    embargo.sync()
    for number in range(12):
        embargo.demo.remove_file(ID, f"{FOLDER}/{number}.txt")
    assert "embargoed: a listing is held" in embargo.embargoed_line(embargo.sync(code=3))
    embargo.assert_no_canary_outside()
    (held,) = [
        json.loads(line)["hold"]
        for line in embargo.run_on_private_store("--json", "holds", code=3).splitlines()
    ]
    embargo.run_on_private_store("release", held)
    assert "new state" in embargo.embargoed_line(embargo.sync())
    embargo.assert_no_canary_outside()


FAULTS = [
    ("status", {"path": r"versions/draft/assets/", "status": 403}),
    ("status", {"path": r"versions/draft/", "status": 404}),
    ("html", {"path": r"versions/"}),
    ("cut", {"keep": 0.7, "lying": True}),
    ("duplicate_rows", {}),
    ("lost_page", {}),
    ("empty_list", {}),
]


@pytest.mark.parametrize(("fault", "options"), FAULTS)
def test_no_failure_reveals_more(
    embargo: EmbargoHarness, no_waits: None, fault: str, options: dict[str, object]
) -> None:
    for number in range(3):
        embargo.demo.add_file(ID, f"{FOLDER}/{number}.txt", f"{number}\n")
    embargo.write_mirror_file("page_size = 2")
    here = {**options, "path": f"{ID}/.*{options.get('path', 'versions/draft/assets/$')}"}
    with embargo.demo.fault(fault, **here) as struck:
        printed = embargo.run("sync", NAME, code=1, NEUROMIRROR_PRIVATE_STORE=str(embargo.private))
        embargo.run("--json", "sync", code=1, NEUROMIRROR_PRIVATE_STORE=str(embargo.private))
        assert struck.struck
    assert embargo.embargoed_line(printed).startswith(f"error {NAME} embargoed: failed")
    assert NAME in embargo.run_on_private_store("events")
    embargo.assert_no_canary_outside()
    assert "new state" in embargo.embargoed_line(embargo.sync())
    embargo.assert_no_canary_outside()


def test_an_internal_error_reveals_no_more(
    embargo: EmbargoHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"could not cope with {FOLDER}/file.txt")

    monkeypatch.setattr(visit.DatasetVisit, "run", broken)
    printed = embargo.sync(NAME, code=1)
    assert embargo.embargoed_line(printed).startswith(f"error {NAME} embargoed: failed")
    embargo.assert_no_canary_outside()
    assert f"could not cope with {FOLDER}" in embargo.run_on_private_store("events")


# --- configuration


def test_a_private_store_must_be_named(embargo: EmbargoHarness) -> None:
    printed = embargo.run("sync", code=2)
    assert "--private-store" in printed
    assert "NEUROMIRROR_PRIVATE_STORE" in printed
    assert "--private-store" in embargo.run("sync", "--dry-run", code=2)
    assert not embargo.public.exists()


def test_a_token_must_be_set(embargo: EmbargoHarness) -> None:
    assert "DEMO_TOKEN" in embargo.sync(code=2, token="")
    assert not embargo.public.exists()
    assert not embargo.private.exists()


def test_a_token_must_be_named(embargo: EmbargoHarness) -> None:
    file = embargo.demo.mirrors / "demo.toml"
    file.write_text(file.read_text().replace('token_env = "DEMO_TOKEN"\n', ""))
    assert "token_env" in embargo.run("check-config", code=2)


def test_a_private_store_in_the_public_one_is_refused(embargo: EmbargoHarness) -> None:
    path = str(embargo.public / "private")
    assert path in embargo.run("sync", "--private-store", path, code=2)
    assert not embargo.public.exists()


def test_a_private_store_is_not_synced_as_a_public_one(embargo: EmbargoHarness) -> None:
    embargo.sync()
    before = sorted(embargo.private.rglob("*"))
    embargo.write_mirror_file(private=False)
    path = str(embargo.private)
    assert path in embargo.run("--store", path, "sync", code=2)
    assert path in embargo.run("--store", path, "sync", "--dry-run", code=2)
    assert sorted(embargo.private.rglob("*")) == before


def test_a_dry_run_writes_nothing_and_reveals_only_the_name(embargo: EmbargoHarness) -> None:
    path = str(embargo.private)
    printed = embargo.run("sync", "--dry-run", "--private-store", path)
    assert "embargoed: would visit: new" in printed
    assert not embargo.private.exists()
    assert not embargo.public.exists()
    embargo.sync()
    assert "embargoed: unchanged" in embargo.run("sync", "--dry-run", "--private-store", path)
    embargo.assert_no_canary_outside()


def test_a_run_finds_the_private_store_in_use(embargo: EmbargoHarness) -> None:
    embargo.sync()
    store = Store.open(embargo.private)
    with store.lock("run", "a test"):
        printed = embargo.sync(code=1)
    assert str(embargo.private) in printed


# --- Zarrs


def test_a_zarr_under_embargo_is_not_revealed(embargo: EmbargoHarness) -> None:
    zarr = embargo.demo.add_zarr(ID, f"{FOLDER}/img.zarr", zarr_entries())
    for private in (False, True):
        embargo.write_mirror_file("zarrs = true", private=private)
        assert "embargoed" in embargo.sync(f"demo:zarr/{zarr}", code=None if private else 0)
        embargo.sync()
        embargo.output = [one.replace(f"demo:zarr/{zarr}", "") for one in embargo.output]
        embargo.assert_no_canary_outside()
    assert not any("/files/" in request for request in embargo.demo.requests if "GET" in request)


def test_a_zarr_that_was_synced_by_name_is_not_missed_in_the_list(embargo: EmbargoHarness) -> None:
    zarr = embargo.demo.add_zarr("000001", "img.zarr", zarr_entries())
    embargo.write_mirror_file("zarrs = true", private=False)
    embargo.run("sync", f"demo:zarr/{zarr}")
    embargo.run("sync")
    assert zarr not in embargo.run("sync")


def test_the_index_of_the_public_store_is_not_the_private_ones(embargo: EmbargoHarness) -> None:
    index = str(embargo.public.with_name("index.sqlite"))
    embargo.run("sync", NEUROMIRROR_INDEX=index, NEUROMIRROR_PRIVATE_STORE=str(embargo.private))
    options = ("--store", str(embargo.private), "--index", index)
    for command in (("rebuild-index",), ("list",), ("release", "abc")):
        CliRunner().invoke(main, [*options, *command], env=embargo.environment())
    assert embargo.canaries_in(embargo.folder / "public") == set()
    content = Path(index).read_bytes().lower()
    assert not [canary for canary in embargo.canaries() if canary in content]


def test_a_zarr_under_embargo_goes_to_the_private_store_and_moves(embargo: EmbargoHarness) -> None:
    embargo.demo.add_zarr(ID, f"{FOLDER}/large.zarr", zarr_entries())
    small = {"zarr.json": b"{}", "c/0": b"chunk"}
    zarr = embargo.demo.add_zarr(ID, f"{FOLDER}/small.zarr", small)
    embargo.write_mirror_file("zarrs = true")
    file = embargo.demo.mirrors / "demo.toml"
    file.write_text(file.read_text() + "[zarr]\ninline_components = 10\n")
    embargo.sync()
    embargo.assert_no_canary_outside()
    assert f"{FOLDER}/small.zarr/c/0" in embargo.run_on_private_store("files", NAME)
    with embargo.index(embargo.private) as index:
        row = index.last_version(NAME)
        assert row is not None
        assert row.exceptions == 0
        (part,) = index.subdatasets(row)
        (state,) = index.versions(part.dataset)
    kinds = {kind for kind, _ in embargo.locations(embargo.private)}
    assert kinds == {"api-private", "s3"}
    download = f"{embargo.demo.api_url}/zarr/{zarr}/files/?download=true&prefix=c%2F0"
    assert download in str(contents(embargo.private))
    embargo.demo.unembargo(ID)
    assert "moved here" in embargo.embargoed_line(embargo.sync())
    with embargo.index(embargo.public) as index:
        assert next(iter(index.versions(part.dataset))).commit == state.commit
    assert embargo.canaries_in(embargo.private) == set()
