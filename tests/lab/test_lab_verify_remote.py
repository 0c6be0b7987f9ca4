"""Whole datasets looked at where archives have them, and what the index keeps of it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from crawl_place import git
from lab_again import Lab
from lab_clones import clone, failed, looked_at, proved

from neuromirror.crawl import Recorder, rebuild_index, recording
from neuromirror.index import Index
from neuromirror.lab.pin import Wanted, pin
from neuromirror.lab.verify import Finding, Health, verify
from neuromirror.lab.verify.fetching import Fetcher
from neuromirror.lab.verify.health import AGAIN, recorded
from neuromirror.lab.verify.places import Prober
from neuromirror.lab.verify.sessions import KEYS, Sessions
from neuromirror.lab.verify.walking import PinnedFile
from neuromirror.model import PlacesAsked
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import DemoBoss

LATE, TWICE = "demo:000004", "demo:000002"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def places(found: list[Finding]) -> list[tuple[str, str | None]]:
    return [(one.path, one.health and one.health.value) for one in found if one.what == "place"]


def test_all_places_of_a_clone_answer_without_a_byte_being_downloaded(
    lab: Lab, demo: DemoArchive, tmp_path: Path
) -> None:
    lab.place.sync(LATE)
    folder = clone(lab.place, LATE, tmp_path / "clone")
    demo.clear_requests()
    found = looked_at(folder, mode="remote")
    assert failed(found) == []
    assert len(places(found)) == 6
    assert {one.checked for one in found if one.what == "place"} == {"claimed"}
    assert {one.what for one in found if one.checked == "checked"} == {"commit", "tree", "state"}
    # of the bucket exact versions are asked for by HEAD alone, an address of the API leads to it
    assert demo.count_requests("^HEAD /demo-dandiarchive/.*versionId=") == 3
    assert demo.count_requests("^GET /demo-dandiarchive/.*versionId=") == 0
    assert not list((folder / ".git" / "annex").glob("objects/*"))
    full = looked_at(folder, mode="full")
    assert failed(full) == []
    assert proved(full) == {("sha256", "checked"): 2, ("etag", "checked"): 1}
    assert not list((folder / ".git" / "annex").glob("objects/*"))


def test_an_altered_file_is_named_by_a_lock_alone(
    lab: Lab, demo: DemoArchive, tmp_path: Path
) -> None:
    lab.place.sync(TWICE)
    lock = tmp_path / "paper" / "datasets.lock"
    with lab.place.index() as index:
        wanted = Wanted(TWICE, "latest")
        assert [one.status for one in pin(lock, [wanted], lab.place.store, index)] == ["ok"]
        label = index.resolve(TWICE).label
    assert failed(looked_at(lock, mode="remote")) == []
    assert failed(looked_at(lock, mode="full")) == []
    path = demo.paths("000002", label)[0]
    demo.tamper_published("000002", label, path, b"other bytes")
    found = [one for one in looked_at(lock, mode="remote") if one.failed]
    assert [(one.path, one.health, one.status) for one in found] == [
        (path, Health.CHANGED, "error")
    ]
    assert "/api/assets/" in str(found[0].url)
    # the object version has the old bytes still, and is tried first
    assert failed(looked_at(lock, mode="full")) == []


def test_bytes_that_rot_behind_the_same_etag_are_found_by_reading_them(
    lab: Lab, demo: DemoArchive, tmp_path: Path
) -> None:
    lab.place.sync(LATE)
    folder = clone(lab.place, LATE, tmp_path / "clone")
    path = demo.paths("000004")[0]
    demo.corrupt_blob("000004", path)
    # a server that does not know is believed by nobody who reads "claimed" for what it says
    assert failed(looked_at(folder, mode="remote")) == []
    found = [one for one in looked_at(folder, mode="full") if one.failed]
    assert [(one.what, one.path, one.status) for one in found] == [
        ("place", path, "error"),
        ("place", path, "error"),
        ("file", path, "error"),
    ]


def test_no_network_is_no_proof_of_anything(lab: Lab, demo: DemoArchive, tmp_path: Path) -> None:
    lab.place.sync(LATE)
    folder = clone(lab.place, LATE, tmp_path / "clone")
    git(folder, "config", "annex.security.allowed-ip-addresses", "10.0.0.1")
    for mode in ("remote", "full"):
        found = looked_at(folder, mode=mode)
        assert {status for _, _, status in failed(found)} == {"impossible"}
        assert proved(found) == {}


def test_what_is_under_embargo_is_asked_for_with_the_archives_own_token(
    demo: DemoArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ITS_KEY", demo.token)
    asset = next(one for one in demo.dandisets["000006"].draft.assets.values() if one.blob)
    assert asset.blob is not None
    digest = demo.sha256("000006", asset.path)
    key = f"SHA256E-s{asset.blob.size}--{digest}.nwb"
    url = f"{demo.api_url}/assets/{asset.asset_id}/download/"
    asked = PinnedFile(b"a.nwb", key, (url,))
    (found,) = Prober(Sessions(("127.0.0.1",), lambda host: None)).probe(asked)
    assert found.health is Health.REFUSED
    keys = {demo.api_url.removesuffix("/api"): "ITS_KEY"}
    (found,) = Prober(Sessions(("127.0.0.1",), lambda host: None, keys=keys)).probe(asked)
    assert found.health is Health.OK
    # whatever addresses a dataset names, nobody else is shown it
    assert set(KEYS.values()) == {"DANDI_API_KEY"}
    assert set(KEYS) == {"https://api.dandiarchive.org"}


def test_blocks_of_volumes_are_asked_for_one_voxel_or_read(tmp_path: Path) -> None:
    with DemoBoss(tmp_path / "boss") as boss:
        volume = "demo_cortex/sections/em"
        # the demo's voxels begin where its box does
        assert [start for start, _ in boss.box(volume, 0)] == [0, 0, 12]
        voxels = np.asarray(boss.voxels(volume, 0))[..., 0:16, 64:128, :64]
        content = np.ascontiguousarray(voxels).tobytes()
        key = f"SHA256E-s{len(content)}--{hashlib.sha256(content).hexdigest()}"
        url = f"boss://{boss.host}/{volume}/0/0:64/64:128/12:28"
        elsewhere = url.replace("/em/", "/nothing/")
        sessions = Sessions(("127.0.0.1",), lambda host: None)
        prober, fetcher = Prober(sessions), Fetcher(sessions, threading.Event())
        file = PinnedFile(b"0/0.0.0", key, (url, elsewhere))
        found = prober.probe(file)
        assert [one.health for one in found] == [Health.OK, Health.GONE]
        assert found[0].checked is None
        (got,) = fetcher.fetch(file)
        assert (got.status, got.evidence, got.checked, got.url) == ("ok", "sha256", "checked", url)
        boss.edit(volume, ((5, 6), (70, 71), (13, 14)))
        assert prober.probe(file)[0].health is Health.OK
        wrong = fetcher.fetch(file)
        assert [one.health for one in wrong] == [Health.CHANGED, Health.GONE, None]
        sessions.close()


# --- what is kept of it


@pytest.fixture
def recorder(lab: Lab) -> Iterator[Recorder]:
    lab.place.sync(LATE)
    with recording(lab.place.store, lab.place.store.index_path) as made:
        yield made


def answered(url: str, word: Health, dataset: str = LATE) -> Finding:
    return Finding(what="place", url=url, health=word, dataset=dataset)


def urls_of(recorder: Recorder, path: str) -> list[str]:
    def asked(index: Index) -> list[str]:
        files = {one.path: one for one in index.files(index.resolve(LATE))}
        return [place.url for place in index.locations(files[path].content)]

    return recorder.ask(asked)


def kept(recorder: Recorder, url: str) -> tuple[str | None, str | None]:
    (row,) = recorder.ask(lambda index: index.places(url))
    return row.result, row.checked_at


def test_what_places_answer_goes_into_the_index(
    lab: Lab, demo: DemoArchive, recorder: Recorder, tmp_path: Path
) -> None:
    path, gone = demo.paths("000004")[:2]
    folder = clone(lab.place, LATE, tmp_path / "clone")
    demo.fault("status", server="s3", path=".", status=404, times=1)
    found = list(recorded(verify(folder, "remote", jobs=1), recorder, NOW))
    assert len(failed(found)) == 1
    exact, address = urls_of(recorder, path)
    assert kept(recorder, exact) == ("gone", "2026-03-01T12:00:00+00:00")
    assert kept(recorder, address) == ("ok", "2026-03-01T12:00:00+00:00")
    assert {kept(recorder, url)[0] for url in urls_of(recorder, gone)} == {"ok"}
    # it is the journal's, so that an index that is made anew has it
    before = recorder.ask(lambda index: list(index.dump()))
    other = tmp_path / "index.sqlite"
    rebuild_index(lab.place.store, other)
    with Index.open_readonly(other) as index:
        assert list(index.dump()) == before


def test_the_journal_grows_by_news_only(lab: Lab, demo: DemoArchive, recorder: Recorder) -> None:
    exact, address = urls_of(recorder, demo.paths("000004")[0])

    def asked(now: datetime, *findings: Finding) -> list[PlacesAsked]:
        assert list(recorded(findings, recorder, now)) == list(findings)
        return lab.place.entries(PlacesAsked)

    good = [answered(exact, Health.OK), answered(address, Health.OK)]
    (first,) = asked(NOW, *good)
    assert first.found == {"ok": sorted([exact, address])}
    assert (first.mirror, first.local_id) == ("demo", "000004")
    assert asked(NOW + AGAIN - timedelta(minutes=1), *good) == [first]
    bad = answered(address, Health.REFUSED)
    assert asked(NOW, good[0], bad)[1:] == [replace(first, found={"refused": [address]})]
    assert asked(NOW, *good)[2:] == [replace(first, found={"ok": [address]})]
    later = NOW + AGAIN + timedelta(minutes=1)
    assert len(asked(later, *good)) == 4
    # addresses that the index does not have, files, and datasets without a name
    strange = answered("https://example.invalid/x", Health.OK)
    nameless = replace(answered(exact, Health.GONE), dataset=None)
    assert len(asked(later, strange, nameless, Finding(dataset=LATE))) == 4


def test_what_was_found_before_an_interruption_is_kept(
    lab: Lab, demo: DemoArchive, recorder: Recorder
) -> None:
    exact, _ = urls_of(recorder, demo.paths("000004")[0])
    findings = recorded(iter([answered(exact, Health.GONE), Finding()]), recorder, NOW)
    next(findings)
    next(findings)
    findings.close()  # type: ignore[attr-defined]
    assert kept(recorder, exact)[0] == "gone"
