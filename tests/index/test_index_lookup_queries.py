"""Bulk look-ups of a visit."""

from __future__ import annotations

import hashlib

import pytest

from neuromirror.index import EtagRow, Index
from neuromirror.index import file_queries as known_module
from neuromirror.model import Digest, Location, SnapshotEntry
from support.disk_journal import BUCKET, DiskJournal, placed_file


def _at(name: str, version: str) -> Location:
    return Location(f"{BUCKET}/{name}?versionId={version}", "s3", version)


def test_many_urls_are_looked_up_in_the_order_given(
    journal: DiskJournal, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_module, "_BATCH", 7)
    names = [f"{n:03d}" for n in range(50)]
    for version in ("old", "new"):
        journal.mint(
            [
                placed_file(name, f"{name}{version}", locations=(_at(name, version + name),))
                for name in (names if version == "old" else names[::2])
            ]
        )
    index.catch_up(journal)
    requested = [*reversed(names), "missing", names[4], names[4]]
    found = index.known_locations([f"{BUCKET}/{name}" for name in requested])
    assert found == [
        None if name == "missing" else _at(name, ("old" if int(name) % 2 else "new") + name)
        for name in requested
    ]
    assert index.known_locations([]) == []
    # one that names a version asks for the object as well
    assert index.known_locations([f"{BUCKET}/000?versionId=any"]) == [found[49]]


def test_an_object_that_may_be_overwritten_is_no_exact_location(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed_file("a", 1, locations=(Location(f"{BUCKET}/a", "s3"),))])
    index.catch_up(journal)
    assert index.known_locations([f"{BUCKET}/a"]) == [None]


def _file(path: str, key: str, *digests: Digest, **more: object) -> SnapshotEntry:
    return placed_file(
        path, path, key=key, size=7, digests=digests, part_size=more.get("part_size")
    )


MD5, ETAG = "a" * 32, "b" * 32
SHA256 = Digest("sha256", "c" * 64, "dandi")


def test_an_etag_is_known_whatever_names_the_key(journal: DiskJournal, index: Index) -> None:
    md5, etag = Digest("md5", MD5, "s3"), Digest("etag", f"{ETAG}-2", "s3")
    requested = [f"{ETAG}-2", MD5, f"{ETAG}-3", ETAG, "0" * 32, "odd", f"{MD5}-2", MD5]
    for key in (
        f"MD5E-s7--{MD5}.x",
        f"XS3ETAG-s7--{ETAG}-2-8",
        f"SHA256E-s7--{'c' * 64}",
        "URL--x",
    ):
        journal.mint([_file("a", key, md5, etag, SHA256, part_size=8)], key[:6], mirror="m")
        index.catch_up(journal)
        known = EtagRow(7, 8, SHA256)
        plain = EtagRow(7, None, SHA256)
        assert index.known_contents(requested) == [known, plain, *[None] * 5, plain], key
    assert index.known_contents([]) == []


def test_the_etag_of_another_upload_of_the_same_bytes_is_known_too(
    journal: DiskJournal, index: Index
) -> None:
    key = f"SHA256E-s7--{'c' * 64}"
    for etag, part_size in ((f"{ETAG}-2", 8), (f"{MD5}-9", 1), (ETAG, None)):
        journal.mint([_file("a", key, Digest("etag", etag, "s3"), SHA256, part_size=part_size)])
    index.catch_up(journal)
    assert index.known_contents([f"{MD5}-9", f"{ETAG}-2", ETAG]) == [
        EtagRow(7, 1, SHA256),
        EtagRow(7, 8, SHA256),
        EtagRow(7, None, SHA256),
    ]


def test_what_contradicts_itself_is_not_known(journal: DiskJournal, index: Index) -> None:
    def file(path: str, key: str, size: int, part_size: int | None, sha256: str) -> SnapshotEntry:
        digests = (Digest("etag", f"{ETAG}-2", "s3"), Digest("sha256", sha256 * 64, "s3"))
        return placed_file(path, path, key=key, size=size, digests=digests, part_size=part_size)

    def known() -> EtagRow | None:
        index.catch_up(journal)
        return index.known_contents([f"{ETAG}-2"])[0]

    journal.mint([file("a", "URL--a", 7, 8, "1")])
    journal.mint([file("b", "URL--b", 7, None, "1")])
    assert known() == EtagRow(7, 8, Digest("sha256", "1" * 64, "s3"))
    journal.mint([file("c", "URL--c", 7, 4, "2")])
    assert known() == EtagRow(7, None, None)
    journal.mint([file("d", "URL--d", 9, 8, "1")])
    assert known() is None


def test_checked_digest_is_returned_as_checked(journal: DiskJournal, index: Index) -> None:
    md5 = Digest("md5", MD5, "s3")
    journal.mint([_file("a", "URL--a", md5, Digest("sha256", "1" * 64, "here", True))])
    journal.mint([_file("b", "URL--b", md5, Digest("sha256", "1" * 64, "s3"))])
    index.catch_up(journal)
    assert index.known_contents([MD5]) == [
        EtagRow(7, None, Digest("sha256", "1" * 64, "here", True))
    ]


def test_batch_lookups_use_an_index(index: Index) -> None:
    statements: list[str] = []
    index._db.set_trace_callback(statements.append)
    md5s = [hashlib.md5(b"%d" % n).hexdigest() for n in range(1000)]
    index.known_locations([f"{BUCKET}/{md5}" for md5 in md5s])
    index.known_contents([*md5s, *(f"{md5}-2" for md5 in md5s)])
    index._db.set_trace_callback(None)
    lookups = [sql for sql in statements if " IN (" in sql]
    assert len(lookups) == 6
    for sql in lookups:
        for row in index._db.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall():
            assert row[3].startswith("SEARCH"), row
