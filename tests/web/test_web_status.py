"""Events, mirrors, and the pages of what is gone or was taken down."""

import re
from contextlib import closing

import pytest

from neuromirror.crawl import JournalRecorder
from neuromirror.model import DatasetFacts, EventRaised, LocationsChecked
from support.running_catalogue import (
    RunningCatalogue,
    data_values,
    links,
    run_catalogue,
    visible_text,
)
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness, ScriptedSource


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> ScriptedHarness:
    """A store in which much went wrong; tests only look at it."""
    source = ScriptedSource()
    found = ScriptedHarness(tmp_path_factory.mktemp("status"), source)
    many = {f"{number}.txt": ScriptedFile(b"%d" % number) for number in range(40)}
    for name in ("held", "gone", "dead"):
        source.scripted_datasets[name] = ScriptedDataset(
            {f"{name}/{path}": one for path, one in many.items()}
        )
    found.sync()
    source.scripted_datasets["held"] = ScriptedDataset({})
    del source.scripted_datasets["gone"]
    found.sync()
    with found.index() as index:
        row = index.versions.resolve("box:dead")
        urls = [
            location.url
            for file in index.files.of(row)
            for location in index.locations.of(file.content)
        ]
    dead = sorted(url for url in set(urls) if "/dead/" in url)
    probe_results = {"not-found": dead[:7], "refused": dead[7:10], "ok": dead[10:]}
    with closing(JournalRecorder(found.store, found.store.index_path)) as recorder:
        recorder.record(LocationsChecked("box", "dead", probe_results, "2026-03-01T12:00:00+00:00"))
        for number in range(120):
            at = f"2026-04-01T12:{number // 60:02}:{number % 60:02}+00:00"
            recorder.record(EventRaised("box", "dead", "incident", f"number {number}", at))
        late = "2026-05-01T12:00:00+00:00"
        recorder.record(EventRaised("other", "thing", "incident", "elsewhere", late))
    return found


def test_pages_of_held_and_removed_datasets_have_a_note(catalogue: RunningCatalogue) -> None:
    held = catalogue.page("/dataset/box:held")
    version = catalogue.api("/datasets/box:held")["version"]
    assert held.count('<p class="note">') == 1
    assert f"/dataset/box:held@{version}" in links(held)
    for path in ("/dataset/box:gone", "/dataset/box:gone@latest"):
        assert catalogue.page(path).count('<p class="note removed">') == 1
    assert "/dataset/box:gone" in links(catalogue.page("/events?kind=tombstone"))


def test_the_mirrors_page_shows_each_hold_without_commands_for_operators(
    box: ScriptedHarness, catalogue: RunningCatalogue
) -> None:
    page = catalogue.page("/mirrors")
    with box.index() as index:
        (hold,) = index.crawl.open_holds()
        failures = [failure.mirror for failure in index.crawl.failures()]
    text = visible_text(page)
    assert hold.hold in text
    assert hold.reason in text
    values = data_values(page)
    for one in (("removed", 40), ("failures", failures.count("box")), ("holds", 1)):
        assert one in values or one == ("failures", 0)
    assert "/events?kind=incident&mirror=box" in links(page)
    for path in ("/", "/mirrors", "/dataset/box:held", "/dataset/box:dead@latest"):
        assert not re.search(r"neuromirror (release|status|sync|audit|fsck|files|show)\b", text)
        text = catalogue.text(path)


def test_failing_locations_are_counted_by_host_and_result(catalogue: RunningCatalogue) -> None:
    text = catalogue.text("/mirrors")
    assert "box bucket.example.invalid not found 7 2026-03-01 12:00 UTC" in text
    assert "box bucket.example.invalid access denied 3 2026-03-01 12:00 UTC" in text


def test_events_come_in_pages_by_kind_and_mirror(catalogue: RunningCatalogue) -> None:
    path, seen = "/events?kind=incident&mirror=box", []
    while path:
        page = catalogue.page(path)
        seen += re.findall(r"<td>(number \d+)</td>", page)
        assert "tombstone</a>" not in page
        path = next((link for link in links(page) if "before=" in link), "")
    assert seen == [f"number {number}" for number in reversed(range(120))]
    assert "elsewhere" not in catalogue.text("/events?kind=incident&mirror=box")
    assert "elsewhere" in catalogue.text("/events?kind=incident")
    assert "No matching events" in catalogue.text("/events?kind=nothing")
    assert "'nowhere'" in catalogue.text("/events?mirror=nowhere", 404)


def test_a_withdrawn_dataset_has_only_a_tombstone(box: ScriptedHarness) -> None:
    box = ScriptedHarness(box.folder.parent / "takedown", box.source)
    box.datasets["secret"] = ScriptedDataset(
        {"a-name.txt": ScriptedFile(b"1")}, facts=DatasetFacts(title="Titled never")
    )
    box.datasets["open"] = ScriptedDataset({"b.txt": ScriptedFile(b"2")})
    box.sync()
    commit = box.refs()["box--secret refs/heads/main"]
    box.withdraw("box:secret", "asked by its owner")
    with run_catalogue(box.store) as site:
        text = site.text("/dataset/box:secret", 410)
        assert "Reason asked by its owner" in text
        assert re.search(r"20\d\d-\d\d-\d\d", text)
        assert site.get("/dataset/box:secret@latest").status_code == 410
        (tombstone,) = site.api("/tombstones")["tombstones"]
        assert (tombstone["dataset"], tombstone["reason"]) == ("box:secret", "asked by its owner")
        for rest in ("", "/versions", "@latest", "@latest/files", "@latest/file?path=a-name.txt"):
            assert "asked by its owner" in site.api(f"/datasets/box:secret{rest}", 410)["detail"]
        for path in (
            *("/", "/?q=titled", "/events", "/feed.atom", "/sitemap.xml"),
            *("/api/v1/datasets", "/api/v1/search?q=titled", "/api/v1/mirrors"),
        ):
            page = site.page(path)
            assert "a-name.txt" not in page
            assert "Titled never" not in page
        assert site.get("/alias/box--secret/HEAD").status_code == 404
        assert site.get("/tombstones/box--secret.json").json()["dataset"] == "box:secret"
        assert site.get(f"/dataset/box:open@{commit}").status_code == 404
