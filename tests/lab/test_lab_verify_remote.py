"""Verification of whole datasets at the archives, and its results in the index."""

import hashlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from neuromirror.crawl import Recorder, open_recorder, rebuild_index
from neuromirror.index import Index
from neuromirror.lab.verify import verify
from neuromirror.model import LocationsChecked
from neuromirror.transfer.outcomes import Finding, Health
from neuromirror.transfer.url_health import RECORD_INTERVAL, DownloadVerifier, Prober, record_health
from neuromirror.transfer.url_sessions import API_KEY_VARIABLES, UrlSessions
from neuromirror.transfer.verified_repository import PinnedFile
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import DemoBoss
from support.dataset_clones import clone_dataset, evidence_counts, failures, verify_all
from support.index_dump import dump_index
from support.lab_store import LabStore
from support.mirror_harness import run_git

LATE, TWICE = "demo:000004", "demo:000002"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def url_health(found: list[Finding]) -> list[tuple[str, str | None]]:
    return [(one.path, one.health and one.health.value) for one in found if one.kind == "url"]


def test_all_urls_of_a_clone_answer_without_a_download(
    lab: LabStore, demo: DemoArchive, tmp_path: Path
) -> None:
    lab.mirror_harness.sync(LATE)
    folder = clone_dataset(lab.mirror_harness, LATE, tmp_path / "clone")
    demo.clear_requests()
    found = verify_all(folder, mode="remote")
    assert failures(found) == []
    assert len(url_health(found)) == 6
    assert {one.checked for one in found if one.kind == "url"} == {"claimed"}
    assert {one.kind for one in found if one.checked == "checked"} == {"commit", "tree", "state"}
    # object versions in the bucket are probed by HEAD only; the API redirects to the bucket
    assert demo.count_requests("^HEAD /demo-dandiarchive/.*versionId=") == 3
    assert demo.count_requests("^GET /demo-dandiarchive/.*versionId=") == 0
    assert not list((folder / ".git" / "annex").glob("objects/*"))
    full = verify_all(folder, mode="full")
    assert failures(full) == []
    assert evidence_counts(full) == {("sha256", "checked"): 2, ("etag", "checked"): 1}
    assert not list((folder / ".git" / "annex").glob("objects/*"))


def test_damage_behind_the_same_etag_is_found_by_download(
    lab: LabStore, demo: DemoArchive, tmp_path: Path
) -> None:
    lab.mirror_harness.sync(LATE)
    folder = clone_dataset(lab.mirror_harness, LATE, tmp_path / "clone")
    path = demo.paths("000004")[0]
    demo.corrupt_blob("000004", path)
    # the server does not know of the damage, and its statement is only "claimed"
    assert failures(verify_all(folder, mode="remote")) == []
    found = [one for one in verify_all(folder, mode="full") if one.failed]
    assert [(one.kind, one.path, one.status) for one in found] == [
        ("url", path, "error"),
        ("url", path, "error"),
        ("file", path, "error"),
    ]


def test_refused_addresses_give_no_evidence(
    lab: LabStore, demo: DemoArchive, tmp_path: Path
) -> None:
    lab.mirror_harness.sync(LATE)
    folder = clone_dataset(lab.mirror_harness, LATE, tmp_path / "clone")
    run_git(folder, "config", "--global", "annex.security.allowed-ip-addresses", "10.0.0.1")
    for mode in ("remote", "full"):
        found = verify_all(folder, mode=mode)
        assert {status for _, _, status in failures(found)} == {"impossible"}
        assert evidence_counts(found) == {}


def test_embargoed_files_are_requested_with_the_archives_token(
    demo: DemoArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ITS_KEY", demo.token)
    asset = next(one for one in demo.dandisets["000006"].draft.assets.values() if one.blob)
    assert asset.blob is not None
    digest = demo.sha256("000006", asset.path)
    key = f"SHA256E-s{asset.blob.size}--{digest}.nwb"
    url = f"{demo.api_url}/assets/{asset.asset_id}/download/"
    pinned_file = PinnedFile(b"a.nwb", key, (url,))
    (found,) = Prober(UrlSessions(("127.0.0.1",), lambda host: None)).probe(pinned_file)
    assert found.health is Health.REFUSED
    keys = {demo.api_url.removesuffix("/api"): "ITS_KEY"}
    (found,) = Prober(UrlSessions(("127.0.0.1",), lambda host: None, keys=keys)).probe(pinned_file)
    assert found.health is Health.OK
    # no URL in a dataset makes another host receive the token: each archive has its own variable
    assert API_KEY_VARIABLES["https://api.dandiarchive.org"] == "DANDI_API_KEY"
    assert len(set(API_KEY_VARIABLES.values())) == len(API_KEY_VARIABLES)
    assert all(host.startswith("https://") for host in API_KEY_VARIABLES)


def test_volume_blocks_are_probed_by_one_voxel_or_read(tmp_path: Path) -> None:
    with DemoBoss(tmp_path / "boss") as boss:
        volume = "demo_cortex/sections/em"
        # offsets of the demo's voxels
        assert [start for start, _ in boss.box(volume, 0)] == [0, 0, 12]
        voxels = np.asarray(boss.voxels(volume, 0))[..., 0:16, 64:128, :64]
        content = np.ascontiguousarray(voxels).tobytes()
        key = f"SHA256E-s{len(content)}--{hashlib.sha256(content).hexdigest()}"
        url = f"boss://{boss.host}/{volume}/0/0:64/64:128/12:28"
        elsewhere = url.replace("/em/", "/nothing/")
        sessions = UrlSessions(("127.0.0.1",), lambda host: None)
        prober, fetcher = Prober(sessions), DownloadVerifier(sessions, threading.Event())
        file = PinnedFile(b"0/0.0.0", key, (url, elsewhere))
        found = prober.probe(file)
        assert [one.health for one in found] == [Health.OK, Health.NOT_FOUND]
        assert found[0].checked is None
        (got,) = fetcher.verify(file)
        assert (got.status, got.evidence, got.checked, got.url) == ("ok", "sha256", "checked", url)
        boss.edit(volume, ((5, 6), (70, 71), (13, 14)))
        assert prober.probe(file)[0].health is Health.OK
        wrong = fetcher.verify(file)
        assert [one.health for one in wrong] == [Health.CHANGED, Health.NOT_FOUND, None]
        sessions.close()


# --- records of URL health


@pytest.fixture
def recorder(lab: LabStore) -> Iterator[Recorder]:
    lab.mirror_harness.sync(LATE)
    with open_recorder(lab.mirror_harness.store, lab.mirror_harness.store.index_path) as made:
        yield made


def url_finding(url: str, health: Health, dataset: str = LATE) -> Finding:
    return Finding(kind="url", url=url, health=health, dataset=dataset)


def urls_of(recorder: Recorder, path: str) -> list[str]:
    def query(index: Index) -> list[str]:
        files = {one.path: one for one in index.files.of(index.versions.resolve(LATE))}
        return [location.url for location in index.locations.of(files[path].content)]

    return recorder.ask(query)


def recorded_health(recorder: Recorder, url: str) -> tuple[str | None, str | None]:
    (row,) = recorder.ask(lambda index: index.locations.of_url(url))
    return row.result, row.checked_at


def test_url_health_is_written_to_the_index(
    lab: LabStore, demo: DemoArchive, recorder: Recorder, tmp_path: Path
) -> None:
    path, gone = demo.paths("000004")[:2]
    folder = clone_dataset(lab.mirror_harness, LATE, tmp_path / "clone")
    demo.fault("status", server="s3", path=".", status=404, times=1)
    found = list(record_health(verify(folder, "remote", jobs=1), recorder, NOW))
    assert len(failures(found)) == 1
    exact, address = urls_of(recorder, path)
    assert recorded_health(recorder, exact) == ("not-found", "2026-03-01T12:00:00+00:00")
    assert recorded_health(recorder, address) == ("ok", "2026-03-01T12:00:00+00:00")
    assert {recorded_health(recorder, url)[0] for url in urls_of(recorder, gone)} == {"ok"}
    # it is in the journal, so that a rebuilt index has it
    before = recorder.ask(dump_index)
    other = tmp_path / "index.sqlite"
    rebuild_index(lab.mirror_harness.store, other)
    with Index.open_readonly(other) as index:
        assert dump_index(index) == before


def test_the_journal_grows_by_changes_only(
    lab: LabStore, demo: DemoArchive, recorder: Recorder
) -> None:
    exact, address = urls_of(recorder, demo.paths("000004")[0])

    def record(now: datetime, *findings: Finding) -> list[LocationsChecked]:
        assert list(record_health(findings, recorder, now)) == list(findings)
        return lab.mirror_harness.entries(LocationsChecked)

    good = [url_finding(exact, Health.OK), url_finding(address, Health.OK)]
    (first,) = record(NOW, *good)
    assert first.found == {"ok": sorted([exact, address])}
    assert (first.mirror, first.local_id) == ("demo", "000004")
    assert record(NOW + RECORD_INTERVAL - timedelta(minutes=1), *good) == [first]
    bad = url_finding(address, Health.REFUSED)
    assert record(NOW, good[0], bad)[1:] == [replace(first, found={"refused": [address]})]
    assert record(NOW, *good)[2:] == [replace(first, found={"ok": [address]})]
    later = NOW + RECORD_INTERVAL + timedelta(minutes=1)
    assert len(record(later, *good)) == 4
    # URLs that the index does not have, findings of files, and datasets without a name
    strange = url_finding("https://example.invalid/x", Health.OK)
    nameless = replace(url_finding(exact, Health.NOT_FOUND), dataset=None)
    assert len(record(later, strange, nameless, Finding(dataset=LATE))) == 4
