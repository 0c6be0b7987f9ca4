"""Look-ups of contents, folders, URLs and block digests."""

import hashlib
from pathlib import Path

import pytest

from neuromirror.index import (
    EtagRow,
    Index,
    MalformedQueryError,
    UnknownDatasetError,
    rebuild_from_journal,
)
from neuromirror.index import files as file_queries
from neuromirror.index import locations as location_queries
from neuromirror.model import (
    ContentsDigested,
    Digest,
    DigestedContent,
    Location,
    SnapshotEntry,
    dump_entry,
    load_entry,
)
from support.disk_journal import BUCKET, DiskJournal, placed_file
from support.index_dump import dump_index


def _at(name: str, version: str) -> Location:
    return Location(f"{BUCKET}/{name}?versionId={version}", "s3", version)


def test_many_urls_are_looked_up_in_the_order_given(
    journal: DiskJournal, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location_queries, "_BATCH", 7)
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
    found = index.locations.known([f"{BUCKET}/{name}" for name in requested])
    assert found == [
        None if name == "missing" else _at(name, ("old" if int(name) % 2 else "new") + name)
        for name in requested
    ]
    assert index.locations.known([]) == []
    # one that names a version asks for the object as well
    assert index.locations.known([f"{BUCKET}/000?versionId=any"]) == [found[49]]


def test_an_object_that_may_be_overwritten_is_no_exact_location(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed_file("a", 1, locations=(Location(f"{BUCKET}/a", "s3"),))])
    index.catch_up(journal)
    assert index.locations.known([f"{BUCKET}/a"]) == [None]


def _file(path: str, key: str, *digests: Digest, **more: object) -> SnapshotEntry:
    return placed_file(
        path, path, key=key, size=7, digests=digests, part_size=more.get("part_size")
    )


MD5, ETAG = "a" * 32, "b" * 32
CLAIMED = Digest("sha256", "c" * 64, "dandi")


def test_an_etag_is_known_whatever_names_the_key(journal: DiskJournal, index: Index) -> None:
    md5, etag = Digest("md5", MD5, "s3"), Digest("etag", f"{ETAG}-2", "s3")
    requested = [f"{ETAG}-2", MD5, f"{ETAG}-3", ETAG, "0" * 32, "odd", f"{MD5}-2", MD5]
    for key in (
        f"MD5E-s7--{MD5}.x",
        f"XS3ETAG-s7--{ETAG}-2-8",
        f"SHA256E-s7--{'c' * 64}",
        "URL--x",
    ):
        journal.mint([_file("a", key, md5, etag, CLAIMED, part_size=8)], key[:6], mirror="m")
        index.catch_up(journal)
        known = EtagRow(7, 8, CLAIMED)
        plain = EtagRow(7, None, CLAIMED)
        assert index.files.known_contents(requested) == [known, plain, *[None] * 5, plain], key
    assert index.files.known_contents([]) == []


def test_the_etag_of_another_upload_of_the_same_bytes_is_known_too(
    journal: DiskJournal, index: Index
) -> None:
    key = f"SHA256E-s7--{'c' * 64}"
    for etag, part_size in ((f"{ETAG}-2", 8), (f"{MD5}-9", 1), (ETAG, None)):
        journal.mint([_file("a", key, Digest("etag", etag, "s3"), CLAIMED, part_size=part_size)])
    index.catch_up(journal)
    assert index.files.known_contents([f"{MD5}-9", f"{ETAG}-2", ETAG]) == [
        EtagRow(7, 1, CLAIMED),
        EtagRow(7, 8, CLAIMED),
        EtagRow(7, None, CLAIMED),
    ]


def test_what_contradicts_itself_is_not_known(journal: DiskJournal, index: Index) -> None:
    def file(path: str, key: str, size: int, part_size: int | None, sha256: str) -> SnapshotEntry:
        digests = (Digest("etag", f"{ETAG}-2", "s3"), Digest("sha256", sha256 * 64, "s3"))
        return placed_file(path, path, key=key, size=size, digests=digests, part_size=part_size)

    def known() -> EtagRow | None:
        index.catch_up(journal)
        return index.files.known_contents([f"{ETAG}-2"])[0]

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
    assert index.files.known_contents([MD5]) == [
        EtagRow(7, None, Digest("sha256", "1" * 64, "here", True))
    ]


def test_batch_lookups_use_an_index(index: Index) -> None:
    statements: list[str] = []
    index.reader.connection.set_trace_callback(statements.append)
    md5s = [hashlib.md5(b"%d" % n).hexdigest() for n in range(1000)]
    index.locations.known([f"{BUCKET}/{md5}" for md5 in md5s])
    index.files.known_contents([*md5s, *(f"{md5}-2" for md5 in md5s)])
    index.reader.connection.set_trace_callback(None)
    lookups = [sql for sql in statements if " IN (" in sql]
    assert len(lookups) == 6
    for sql in lookups:
        for row in index.reader.connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall():
            assert row[3].startswith("SEARCH"), row


def test_contents_of_all_versions_and_the_datasets_that_have_them(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed_file("a", 1), placed_file("b", 2)])
    journal.mint([placed_file("b", 2), placed_file("a", 3)])
    journal.mint([placed_file("x", 2)], "000002")
    index.catch_up(journal)
    assert [(one.path, one.key, one.size) for one in index.files.contents("dandi:000001")] == [
        (path, placed_file(path, number).key, len(repr(number)))
        for path, number in (("a", 1), ("a", 3), ("b", 2))
    ]
    with pytest.raises(UnknownDatasetError):
        list(index.files.contents("dandi:000003"))
    one, two = placed_file("a", 1), placed_file("b", 2)
    found = index.files.datasets_with([one.key, two.key, "SHA256E-s1--0"])
    assert set(found) == {one.key, two.key}
    assert {ref.local_id for ref in found[two.key]} == {"000001", "000002"}


_PATHS = ("a-b.nwb", "a/é/1.nwb", "a/é/2.nwb", "a/z.nwb", "a0/1.nwb", "b.nwb", "zebra/𝄞/1.nwb")


@pytest.mark.parametrize("is_small", [True, False])
def test_a_folder_is_listed_alike_in_versions_of_any_size(
    journal: DiskJournal, index: Index, monkeypatch: pytest.MonkeyPatch, *, is_small: bool
) -> None:
    monkeypatch.setattr(file_queries, "_MAX_GROUPED", 100 if is_small else -1)
    files = [placed_file(path, number) for number, path in enumerate(_PATHS, 1)]
    journal.mint(files, label="one")
    journal.mint([*files[:2], *files[3:]], label="two")
    index.catch_up(journal)

    def listed(label: str, under: str = "", start: str = "") -> list[tuple[str, int | None]]:
        found = list(
            index.files.folder_entries(index.versions.resolve("dandi:000001", label), under, start)
        )
        for one in found:
            assert (one.file is None) is (one.bytes is not None)
            assert one.file is None or one.file.path == one.path
        return [(one.path, one.files) for one in found]

    whole = [("a-b.nwb", None), ("a", 3), ("a0", 1), ("b.nwb", None), ("zebra", 1)]
    assert listed("one") == whole
    assert listed("two") == [whole[0], ("a", 2), *whole[2:]]
    assert listed("one", "a") == [("a/z.nwb", None), ("a/é", 2)]
    assert listed("one", "a/é") == [("a/é/1.nwb", None), ("a/é/2.nwb", None)]
    assert listed("one", "missing") == []
    entries = list(index.files.folder_entries(index.versions.resolve("dandi:000001", "one")))
    for number, one in enumerate(entries, 1):
        assert listed("one", start=one.next) == whole[number:]
    assert listed("one", start="a/é/2.nwb")[:2] == [("a", 3), ("a0", 1)]


AT = "2026-03-01T12:00:00+00:00"
ROOT, SHA256 = hashlib.sha256(b"root").hexdigest(), hashlib.sha256(b"bytes").hexdigest()


def digested(*keys: str, root: str = ROOT, sha256: str = SHA256) -> ContentsDigested:
    return ContentsDigested([DigestedContent(key, sha256, 1 << 20, root) for key in keys], AT)


def test_an_entry_comes_back_from_its_line() -> None:
    entry = digested("MD5E-s5--" + "0" * 32)
    assert load_entry(dump_entry(entry)) == entry


@pytest.mark.parametrize(
    ("old", "new"), [(ROOT, ROOT[:-1]), ('"piece_size":1048576', '"piece_size":-1'), (SHA256, "")]
)
def test_malformed_entries_are_refused(old: str, new: str) -> None:
    line = dump_entry(digested("MD5E-s5--" + "0" * 32)).decode()
    assert old in line
    with pytest.raises(ValueError, match="not a journal entry"):
        load_entry(line.replace(old, new).encode())


def test_a_content_is_found_by_what_the_pass_computed(journal: DiskJournal, index: Index) -> None:
    key = "MD5E-s7--" + "1" * 32 + ".nwb"
    journal.mint([placed_file("a", 1, key=key, digests=()), placed_file("b", 2)])
    journal.append(digested(key, "MD5E-s9--" + "2" * 32))
    index.catch_up(journal)
    for query in (f"sha256:{SHA256}", f"sha256:{SHA256[:12]}", f"btv2:{ROOT}"):
        assert [one.path for one in index.files.find(query)] == ["a"]
    assert list(index.files.find(f"btv2:{SHA256}")) == []
    with pytest.raises(MalformedQueryError):
        index.files.find("btv2:0123")
    # the digests of a version stay those that upstream stated
    (file,) = (
        one for one in index.files.of(index.versions.resolve("dandi:000001")) if one.path == "a"
    )
    assert file.digests == ()


def test_later_digests_replace_earlier_ones(journal: DiskJournal, index: Index) -> None:
    placed = placed_file("a", 1)
    journal.mint([placed])
    journal.append(digested(placed.key))
    journal.append(digested(placed.key, root=SHA256))
    index.catch_up(journal)
    assert [one.path for one in index.files.find(f"btv2:{SHA256}")] == ["a"]
    assert list(index.files.find(f"btv2:{ROOT}")) == []


def test_a_rebuilt_index_has_the_same_rows(
    journal: DiskJournal, index: Index, tmp_path: Path
) -> None:
    first, later = placed_file("a", 1), placed_file("b", 2)
    journal.mint([first])
    journal.append(digested(first.key, later.key))
    index.catch_up(journal)
    journal.mint([first, later])
    index.catch_up(journal)
    rebuilt = tmp_path / "again.sqlite"
    rebuild_from_journal(rebuilt, journal)
    with Index.open_readonly(rebuilt) as other:
        assert dump_index(other) == dump_index(index)
        assert [one.path for one in other.files.find(f"btv2:{ROOT}")] == ["a"]


def test_keys_of_shown_datasets(journal: DiskJournal, index: Index) -> None:
    placed = [placed_file("a", 1), placed_file("b", 2)]
    journal.mint(placed)
    index.catch_up(journal)
    keys = [one.key for one in placed]
    assert index.files.shown_keys([*keys, "MD5E-s9--" + "2" * 32]) == set(keys)
    assert index.files.shown_keys([]) == set()
