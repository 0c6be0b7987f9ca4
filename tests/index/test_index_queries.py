"""Queries of users, and the errors for invalid ones."""

import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from neuromirror.index import (
    AmbiguousNameError,
    CopyRow,
    FileRow,
    Index,
    LastVisit,
    MalformedQueryError,
    UnknownDatasetError,
    UnknownHoldError,
    UnknownMirrorError,
    UnknownVersionError,
)
from neuromirror.index.contents import parse_checksum
from neuromirror.model import (
    Digest,
    EventRaised,
    Evidence,
    HoldLapsed,
    HoldPlaced,
    HoldReleased,
    Location,
    MirrorSeen,
    NeuromirrorError,
    Retention,
)
from support.disk_journal import (
    BUCKET,
    STRONGEST_RETENTION,
    DiskJournal,
    placed_file,
    published_fields,
)

NAME = "dandi:000001"


@pytest.fixture
def three_versions(journal: DiskJournal, index: Index) -> Index:
    """Published 0.1, then a draft, then published 0.2; and a second dataset with a draft."""
    journal.append(MirrorSeen("dandi", "dandi", "https://api.example.invalid/", "2024"))
    journal.mint(
        [placed_file("a", 1), placed_file("b", 2)],
        **published_fields("0.1", title="Old", doi="10.48324/dandi.000001/0.1"),
    )
    journal.mint(
        [placed_file("a", 1), placed_file("b", 3), placed_file("c", 1)], title="Néw hippocampus"
    )
    journal.mint(
        [placed_file("a", 1), placed_file("c", 1)],
        **published_fields("0.2", title="Néw hippocampus", doi="10.48324/dandi.000001/0.2"),
    )
    journal.mint([placed_file("z", 3)], "000027", title="Cortex", license=["spdx:CC0-1.0"])
    index.catch_up(journal)
    return index


def _label(index: Index, label: str) -> str:
    return index.versions.resolve(NAME, label).label


def test_keywords_labels_commits_and_states_resolve_to_a_version(three_versions: Index) -> None:
    one, two, _ = three_versions.versions.of(NAME)
    assert [row.seq for row in three_versions.versions.of(NAME)] == [1, 2, 3]
    assert _label(three_versions, "latest") == "0.2"
    assert _label(three_versions, "draft") == "2024-2"
    assert _label(three_versions, "0.1") == "0.1"
    assert _label(three_versions, one.commit) == "0.1"
    assert _label(three_versions, one.commit[:7].upper()) == "0.1"
    assert _label(three_versions, f"state:{two.state[7:17]}") == "2024-2"
    assert _label(three_versions, f"state:{two.state}") == "2024-2"
    assert three_versions.versions.resolve("dandi:000027").label == "2024-4"
    assert one.name == "dandi:000001@0.1"
    last = three_versions.versions.last(NAME, "observed")
    assert last is not None
    assert last.label == "2024-2"
    assert three_versions.versions.last("dandi:999999") is None
    known = three_versions.versions.published(NAME, "0.1")
    assert known == one
    assert three_versions.versions.published(NAME, "draft") is None


def test_a_wrong_name_is_answered_with_close_ones(three_versions: Index) -> None:
    cases: list[tuple[type[NeuromirrorError], str, str, str]] = [
        (UnknownMirrorError, "ember:000001", "latest", r"ember.*dandi"),
        (UnknownDatasetError, "dandi:000072", "latest", "dandi:000027"),
        (UnknownDatasetError, "000027", "latest", "dandi:000027"),
        (UnknownVersionError, NAME, "0.9", "the newest are 0.2, 2024-2, 0.1"),
        (UnknownVersionError, NAME, "abcdef0123", "the newest are"),
        (UnknownVersionError, NAME, "state:abcdef0123", "the newest are"),
        (
            UnknownVersionError,
            NAME,
            next(three_versions.versions.of(NAME)).commit[:6],
            "the newest are",
        ),
    ]
    for kind, name, label, message in cases:
        with pytest.raises(kind, match=message) as raised:
            three_versions.versions.resolve(name, label)
        assert raised.value.exit_code == 2
    with pytest.raises(UnknownMirrorError):
        three_versions.datasets.select("ember")


def test_names_are_similar_within_their_mirror_or_by_their_id(three_versions: Index) -> None:
    assert NAME in three_versions.reader.similar_names("dandi:000010")
    assert NAME in three_versions.reader.similar_names("ember:000010")
    assert NAME in three_versions.reader.similar_names("000010")
    assert three_versions.reader.similar_names("dandi:qqqqqqqqq") == []


def test_a_short_id_that_fits_two_versions_is_refused(journal: DiskJournal, index: Index) -> None:
    journal.mint([placed_file("a", 1)], commit="abcdef1" + "0" * 33, state="sha256:7777777a")
    journal.mint([placed_file("a", 1)], commit="abcdef1" + "1" * 33, state="sha256:7777777b")
    journal.mint(
        [placed_file("a", 1)], commit="f" * 40, state="sha256:7777777a", **published_fields("1")
    )
    index.catch_up(journal)
    for label in ("abcdef1", "state:7777777"):
        with pytest.raises(AmbiguousNameError, match="2 versions"):
            index.versions.resolve(NAME, label)
    assert _label(index, "abcdef10") == "2024-1"
    assert _label(index, "state:7777777a") == "1"


def test_files_of_a_version_by_folder_and_page(journal: DiskJournal, index: Index) -> None:
    names = ["a", "sub-01!/x", "sub-01/a", "sub-01/b/c", "sub-01/d", "sub-010/a", "t"]
    journal.mint([placed_file(name, name) for name in names])
    index.catch_up(journal)
    version = index.versions.resolve(NAME)

    def listed(under: str = "", after: str = "", limit: int | None = None) -> list[str]:
        return [row.path for row in index.files.of(version, under, after, limit)]

    assert listed() == names
    assert listed("sub-01") == listed("sub-01/") == names[2:5]
    assert listed("sub-01", after="sub-01/a", limit=1) == ["sub-01/b/c"]
    assert listed("nothing") == []
    assert listed(after="sub-010/a") == ["t"]


def test_every_checksum_notation_finds_the_file(three_versions: Index) -> None:
    row = next(three_versions.files.of(three_versions.versions.resolve(NAME)))
    sha256, etag = (digest.value for digest in row.digests)
    notations = [
        f"sha256:{sha256}",
        f"SHA256:{sha256.upper()}",
        sha256,
        f"sha256:{sha256[:8]}",
        f"sha256:{sha256[:9]}",
        f"sha256:{sha256[:40]}",
        f"etag:{etag}",
        f"etag:{etag[:32]}",
        f'"{etag}"',
        etag,
        f"{etag}-64",
        etag[:32],
        row.key,
    ]
    for notation in notations:
        found = [(f.path, f.first, f.last, f.current) for f in three_versions.files.find(notation)]
        assert found == [("a", "0.1", "0.2", True), ("c", "2024-2", "0.2", True)], notation
    for miss in (f"md5:{etag[:32]}", f"{etag[:32]}-3", f"{etag}-65", f"{row.key}x", "0" * 64):
        assert list(three_versions.files.find(miss)) == [], miss


@pytest.mark.parametrize(
    "key",
    [
        "SHA256E-s7--" + "a" * 64 + ".nwb",
        "MD5E-s7--" + "b" * 32,
        "XS3ETAG-s7--" + "c" * 32 + "-2-64",
        "URL--https&c%%x.invalid%x",
        "WORM-s7--ab cd ef 01 23 45",
    ],
)
def test_every_digest_finds_the_file_whatever_its_key_is_named_by(
    journal: DiskJournal, index: Index, key: str
) -> None:
    digests = (
        Digest("sha256", "a" * 64, "x"),
        Digest("md5", "b" * 32, "x"),
        Digest("etag", "c" * 32 + "-2", "x"),
    )
    journal.mint([placed_file("a", 1, key=key, digests=digests), placed_file("z", 2)])
    index.catch_up(journal)
    for query in ("a" * 64, "sha256:" + "a" * 9, "b" * 32, "c" * 32 + "-2-64", "c" * 32, key):
        assert [found.path for found in index.files.find(query)] == ["a"], query


def test_a_file_that_is_gone_is_found_with_the_range_where_it_was(three_versions: Index) -> None:
    [old, *_] = three_versions.files.of(three_versions.versions.resolve(NAME, "0.1"), after="a")
    [found] = three_versions.files.find(old.key)
    assert (found.path, found.first, found.last, found.current) == ("b", "0.1", "0.1", False)
    draft = [
        row
        for row in three_versions.files.of(three_versions.versions.resolve(NAME, "draft"))
        if row.path == "b"
    ]
    ranges = [
        (f.dataset, f.path, f.first, f.last, f.current)
        for f in three_versions.files.find(draft[0].key)
    ]
    assert ranges == [
        (NAME, "b", "2024-2", "2024-2", False),
        ("dandi:000027", "z", "2024-4", "2024-4", True),
    ]


def test_what_is_not_a_checksum_is_refused_at_once(three_versions: Index) -> None:
    wrong = [
        "",
        "sha256:abc",
        "sha256:" + "g" * 64,
        "md5:1234",
        "deadbeef",
        "a b",
        "sha1:" + "0" * 40,
    ]
    for query in wrong:
        with pytest.raises(MalformedQueryError, match="not a checksum") as raised:
            three_versions.files.find(query)
        assert raised.value.exit_code == 2


def test_every_look_up_uses_an_index(index: Index) -> None:
    queries = ["0" * 64, "sha256:00000000", "0" * 32, f"{'0' * 32}-2-64", "XS3ETAG-s1--0-1-1"]
    lookups = [lookup for query in queries for lookup in parse_checksum(query)]
    assert len(lookups) == 18
    for lookup in lookups:
        plan = index.reader.connection.execute(
            f"EXPLAIN QUERY PLAN {lookup.sql}", lookup.parameters
        )
        steps = [row[3] for row in plan]
        assert len(steps) == 1
        assert steps[0].startswith("SEARCH"), steps
        assert " INDEX " in steps[0], steps


def test_digests_only_ever_grow(journal: DiskJournal, index: Index) -> None:
    key = "XS3ETAG-s7--" + "3" * 32 + "-2-64"

    def mint(*digests: Digest, **more: object) -> None:
        journal.mint([placed_file("a", 1, key=key, size=7, digests=digests, **more)])
        index.catch_up(journal)

    def known() -> tuple[set[tuple[str, str, bool]], Evidence, bool]:
        [row] = index.files.of(index.versions.resolve(NAME))
        found = {(d.algorithm, d.claimed_by, d.checked) for d in row.digests}
        return found, row.evidence, row.checked

    mint(Digest("etag", "3" * 32 + "-2", "s3"), part_size=None)
    assert known() == ({("etag", "s3", False)}, Evidence.SIZE, False)
    mint(Digest("etag", "3" * 32 + "-2", "s3"), part_size=64)
    assert known() == ({("etag", "s3", False)}, Evidence.ETAG, False)
    mint(Digest("sha256", "5" * 64, "dandi"))
    assert known() == ({("etag", "s3", False), ("sha256", "dandi", False)}, Evidence.SHA256, False)
    mint(Digest("sha256", "5" * 64, "here", True))
    mint()
    assert known() == ({("etag", "s3", False), ("sha256", "here", True)}, Evidence.SHA256, True)
    assert [row.since for row in index.files.of(index.versions.resolve(NAME))] == [1]


def test_the_same_bytes_uploaded_in_other_parts_are_found_by_both_etags(
    journal: DiskJournal, index: Index
) -> None:
    claims = [("a" * 32 + "-2", 64), ("b" * 32 + "-3", 48), ("a" * 32 + "-2", 65)]
    for number, (etag, part_size) in enumerate(claims):
        digest = Digest("etag", etag, "s3")
        journal.mint([placed_file(f"{number}", 1, digests=(digest,), part_size=part_size)])
    index.catch_up(journal)
    for query in ("a" * 32 + "-2-64", "b" * 32 + "-3", "b" * 32, "a" * 32 + "-2-65"):
        assert [found.path for found in index.files.find(query)] == ["0", "1", "2"], query
    assert list(index.files.find("b" * 32 + "-3-64")) == []


def test_a_checked_digest_goes_before_a_claimed_one(journal: DiskJournal, index: Index) -> None:
    for value, checked in (("a" * 32, False), ("b" * 32, True), ("c" * 32, False)):
        journal.mint([placed_file("x", 1, digests=(Digest("md5", value, "s3", checked),))])
    index.catch_up(journal)
    [row] = index.files.of(index.versions.resolve(NAME))
    assert [(d.value, d.checked) for d in row.digests] == [("b" * 32, True)]
    for value in ("a" * 32, "b" * 32, "c" * 32):
        assert [found.path for found in index.files.find(f"md5:{value}")] == ["x"]


def test_publishing_strengthens_the_promise_without_new_rows(
    journal: DiskJournal, index: Index
) -> None:
    for promise in (Retention.DRAFT, STRONGEST_RETENTION, Retention.DRAFT):
        journal.mint([placed_file("a", 1, retention=promise)])
    index.catch_up(journal)
    for version in index.versions.of(NAME):
        [row] = index.files.of(version)
        assert (row.retention, row.since) == (STRONGEST_RETENTION, 1)


def test_a_promise_for_the_same_bytes_elsewhere_is_another_copy(
    journal: DiskJournal, index: Index
) -> None:
    weak, strong = Retention.MUTABLE_BUCKET, Retention.VERSIONED_BUCKET
    journal.mint([placed_file("a", 1, retention=weak), placed_file("b", 2, retention=weak)])
    journal.mint([placed_file("x", 1, retention=strong)], "000002")
    index.catch_up(journal)
    here, there = index.versions.resolve(NAME), index.versions.resolve("dandi:000002")
    assert [row.retention for row in index.files.of(here)] == [weak, weak]
    assert [row.retention for row in index.files.of(there)] == [strong]
    assert index.files.evidence_counts(here).retention == {weak.value: 2}
    assert index.files.copies(here) == [CopyRow("dandi:000002", strong, 1)]
    assert index.files.copies(there) == []
    (row, _) = index.files.of(here)
    found = {one.dataset: one.retention for one in index.files.find(row.key)}
    assert found == {NAME: weak, "dandi:000002": strong}


def test_a_content_of_very_many_files_is_no_copy(journal: DiskJournal, index: Index) -> None:
    weak, strong = Retention.MUTABLE_BUCKET, Retention.VERSIONED_BUCKET
    journal.mint([placed_file("a", 1, retention=weak), placed_file("b", 2, retention=weak)])
    many = [placed_file(f"{number:03d}", 1, retention=strong) for number in range(100)]
    journal.mint([*many, placed_file("b", 2, retention=strong)], "000002")
    index.catch_up(journal)
    assert index.files.copies(index.versions.resolve(NAME)) == [CopyRow("dandi:000002", strong, 1)]


def test_locations_are_limited_and_most_exact_first(journal: DiskJournal, index: Index) -> None:
    def at(number: int) -> tuple[Location, ...]:
        return (
            Location(f"https://api.invalid/{number}", "api"),
            Location(f"https://s3.invalid/{number}", "s3"),
            Location(f"https://s3.invalid/{number}?versionId=q&x=1", "s3", "q"),
        )

    journal.mint([placed_file(f"{n:03d}", "same", locations=at(n)) for n in range(200)])
    index.catch_up(journal)
    [first, *_] = index.files.of(index.versions.resolve(NAME), limit=1)
    best = index.locations.of(first.content)
    assert [(row.kind, row.version_id) for row in best] == [("s3", "q")] * 5
    assert len(index.locations.of(first.content, 1000)) == 600
    assert {len(found.urls) for found in index.files.find(first.key)} == {5}


def test_a_plain_url_gives_the_exact_object_learnt_last(journal: DiskJournal, index: Index) -> None:
    plain = f"{BUCKET}/some thing?x=1"

    def locations(version: str) -> tuple[Location, ...]:
        return (Location(f"{plain}&versionId={version}", "s3", version),)

    one = placed_file("a", 1, locations=locations("one"))
    two = placed_file("a", 2, locations=locations("two"))
    for files, last in ([one], "one"), ([two], "two"), ([two], "two"), ([one], "one"):
        journal.mint(files)
        index.catch_up(journal)
        assert index.locations.known([plain]) == [locations(last)[0]]
    unknown = [f"{BUCKET}/some thing", "https://api.invalid/1"]
    assert index.locations.known(unknown) == [None, None]


def test_an_overwritten_object_is_not_offered_for_the_old_bytes(
    journal: DiskJournal, index: Index
) -> None:
    where = (Location("https://s3.invalid/mutable", "s3"),)
    journal.mint([placed_file("a", 1, locations=where)])
    journal.mint([placed_file("a", 2, locations=where)])
    index.catch_up(journal)
    urls = [
        [
            location.url
            for row in index.files.of(version)
            for location in index.locations.of(row.content)
        ]
        for version in index.versions.of(NAME)
    ]
    assert urls == [[], ["https://s3.invalid/mutable"]]


def test_search_finds_terms_in_names_titles_licenses_and_dois(three_versions: Index) -> None:
    def found(text: str) -> list[str]:
        return [row.local_id for row in three_versions.search.all_datasets(text)]

    assert found("new HIPPO") == ["000001"]
    assert found("cc0") == ["000027"]
    assert found("10.48324/dandi.000001/0.1") == ["000001"]
    assert found("dandi:000027") == ["000027"]
    assert sorted(found("dandi")) == ["000001", "000027"]
    assert found("Old") == []
    assert found('cortex "AND NEAR( hippocampus') == []
    assert sorted(found("")) == ["000001", "000027"]
    with pytest.raises(MalformedQueryError):
        three_versions.search.all_datasets(' "* -')


def test_a_dataset_row_has_title_status_holds_and_counts(
    three_versions: Index, journal: DiskJournal
) -> None:
    journal.visit("000027", "partial", title="Recorded by a visit", pending=3)
    journal.visit("000099", "failed", title="Never minted")
    journal.append(HoldPlaced("h1", "dandi", "000027", "draft", "sha256:a", "lost", 9, 9, "2024"))
    journal.append(EventRaised("dandi", "000077", "unavailable", "embargoed", "2024"))
    three_versions.catch_up(journal)
    row = three_versions.datasets.get("dandi:000027")
    assert (row.title, row.status, row.open_holds, row.license) == (
        "Cortex",
        "partial",
        1,
        ["spdx:CC0-1.0"],
    )
    row = three_versions.datasets.get(NAME)
    assert (row.versions, row.newest, row.published, row.files) == (3, "0.2", "0.2", 2)
    assert row.dataset_id
    row = three_versions.datasets.get("dandi:000099")
    assert (row.title, row.versions, row.newest, row.bytes) == ("Never minted", 0, None, 0)
    with pytest.raises(UnknownVersionError, match="dandi:000099"):
        three_versions.versions.resolve("dandi:000099")
    names = [row.name for row in three_versions.datasets.select()]
    assert names == [NAME, "dandi:000027", "dandi:000077", "dandi:000099"]
    assert names == [row.name for row in three_versions.datasets.select("dandi")]
    [status] = three_versions.crawl.mirrors()
    assert (status.datasets, status.mirrored, status.versions, status.files) == (4, 2, 4, 3)
    assert (status.contents, status.failing, status.open_holds, status.incidents) == (3, 2, 1, 0)


def test_hints_are_of_the_last_visit(journal: DiskJournal, index: Index) -> None:
    assert index.crawl.last_visits("dandi") == {}
    journal.visit(fingerprint="old")
    journal.visit(fingerprint="new", status="partial", pending=2)
    journal.visit("000002", "failed")
    index.catch_up(journal)
    ended = "2024-02-01T00:01:00+00:00"
    assert index.crawl.last_visits("dandi") == {
        "000001": LastVisit("new", "partial", 2, ended),
        "000002": LastVisit("f1", "failed", 0, ended),
    }
    assert [row.fingerprint for row in index.crawl.visits(NAME)] == ["new", "old"]
    assert index.datasets.get(NAME).last_full_visit == ended


def test_a_hold_is_open_until_released_or_lapsed_and_may_come_back(
    journal: DiskJournal, index: Index
) -> None:
    def append_hold(hold: str, state: str) -> None:
        journal.append(
            HoldPlaced(hold, "dandi", "000001", "draft", state, "lost", 9, 90, "2024-01-01")
        )

    append_hold("h1", "sha256:a")
    append_hold("h2", "sha256:b")
    journal.append(HoldLapsed("h1", "2024-01-02"))
    journal.append(HoldReleased("h2", "ada", "2024-01-03"))
    index.catch_up(journal)
    assert list(index.crawl.open_holds()) == []
    assert index.crawl.hold("h1").outcome == "lapsed"
    released = index.crawl.hold("h2")
    assert (released.released_by, released.files_removed, released.files_before) == ("ada", 9, 90)
    assert index.crawl.released_states(NAME) == {("draft", "sha256:b")}
    assert index.crawl.released_states("dandi:999") == set()
    append_hold("h1", "sha256:a")
    index.catch_up(journal)
    assert [row.hold for row in index.crawl.open_holds(NAME)] == ["h1"]
    with pytest.raises(UnknownHoldError, match="h1"):
        index.crawl.hold("h9")


def test_events_are_newest_first_and_a_reported_check_is_kept(
    journal: DiskJournal, index: Index
) -> None:
    file = placed_file("a", 1)
    journal.mint([file])
    url = file.record.locations[0].url
    journal.append(EventRaised("dandi", "000001", "incident", "one", "2024-01-01", {"x": [1]}))
    journal.append(EventRaised("dandi", "", "incident", "two", "2024-01-02"))
    gone = {"url": url, "result": "gone"}
    journal.append(EventRaised("dandi", "000001", "unavailable", "three", "2024-01-03", gone))
    index.catch_up(journal)
    assert [event.message for event in index.crawl.events()] == ["three", "two", "one"]
    assert [event.message for event in index.crawl.events(kind="incident")] == ["two", "one"]
    assert [event.data for event in index.crawl.events(NAME, "incident")] == [{"x": [1]}]
    assert [event.dataset for event in index.crawl.events(limit=2)] == [NAME, None]
    [row] = index.files.of(index.versions.resolve(NAME))
    checks = [
        (location.checked_at, location.result) for location in index.locations.of(row.content)
    ]
    assert checks == [("2024-01-03", "gone"), (None, None)]


def test_exceptions_and_evidence_of_a_version_are_kept(journal: DiskJournal, index: Index) -> None:
    named = [{"path": "x.zarr", "reason": "zarr", "detail": "not yet", "size": 5}]
    journal.mint(
        [placed_file("a", 1)], exceptions=named, evidence={"sha256": 1}, metadata_only=True
    )
    index.catch_up(journal)
    version = index.versions.resolve(NAME)
    assert (version.exceptions, version.evidence, version.metadata_only) == (1, {"sha256": 1}, True)
    assert index.versions.exceptions(version) == named


def test_an_unfinished_query_may_be_collected_in_another_thread(
    journal: DiskJournal, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.mint([placed_file(f"{number}", number) for number in range(9)])
    index.catch_up(journal)
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)

    def start_query() -> Iterator[FileRow]:
        reader = Index.open_readonly(index.path)
        rows = reader.files.of(reader.versions.resolve(NAME))
        next(rows)
        return rows

    with ThreadPoolExecutor(1) as threads:
        rows = threads.submit(start_query).result()
        del rows
        gc.collect()
    assert ignored == []
