"""Upstream's own documents: plain files in git, known when a listing has ended."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from crawl_place import git
from scripted import Box, File, Scripted, Thing, at, files

from neuromirror.model import (
    DatasetFacts,
    Document,
    VersionMinted,
    metadata_digest,
)

SUBJECT = Document(b"subject.json", b'{"subject_id":"1"}\n', at(5))
SESSION = Document(b"original_metadata/session.json", b"{}\n", at(2))


def tree(box: Box) -> dict[str, str]:
    """Mode by path of what upstream's files and documents are on main."""
    lines = git(box.repository("box:a"), "ls-tree", "-r", "-z", "main").split("\0")
    found = {line.partition("\t")[2]: line.partition(" ")[0] for line in lines if line}
    return {path: mode for path, mode in found.items() if not path.startswith((".", '".'))}


def test_documents_that_are_known_at_the_end_are_plain_files(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing(files("x.bin"), documents=[SUBJECT, SESSION])
    box.sync()
    assert tree(box) == {
        "original_metadata/session.json": "100644",
        "subject.json": "100644",
        "x.bin": "120000",
    }
    shown = git(box.repository("box:a"), "show", "main:original_metadata/session.json")
    assert shown == SESSION.content.decode()
    box.fsck()


def test_the_order_in_which_documents_come_does_not_matter(box: Box, source: Scripted) -> None:
    source.memos = False
    source.things["a"] = Thing(files("x.bin"), documents=[SUBJECT, SESSION])
    box.sync()
    source.things["a"].documents.reverse()
    assert box.sync()["box:a"].status == "notneeded"


@pytest.mark.parametrize(
    ("path", "placed"),
    [
        ("subject.json", "%73ubject.json"),
        ("subject.json/child", "%73ubject.json/child"),
        ("original_metadata", "original_metadata%_"),
        ("original_metadata/big.bin", "original_metadata/big.bin"),
        ("original_metadata/session.json", "original_metadata/%73ession.json"),
        ("original_metadata/session.json/x", "original_metadata/%73ession.json/x"),
        ("subject.json5", "subject.json5"),
        ("é.json", "%C3%A9.json"),
        ("%73ubject.json", "%2573ubject.json"),
    ],
)
def test_a_file_in_a_documents_way_gets_a_name_of_its_own(
    box: Box, source: Scripted, path: str, placed: str
) -> None:
    documents = [SUBJECT, SESSION, Document("é.json".encode(), b"{}\n")]
    source.things["a"] = Thing(files("x.bin", path), documents=documents)
    box.sync()
    with box.index() as index:
        row = index.resolve("box:a")
        found = {one.path: one.source_path.decode() for one in index.files(row)}
    assert found == {"x.bin": "x.bin", placed: path}
    assert set(found) | {one.path.decode() for one in documents} == set(tree(box))
    box.fsck()


def test_a_file_and_a_folder_of_a_documents_name_stay_apart(box: Box, source: Scripted) -> None:
    paths = ("subject.json", "subject.json/child", "subject.json/child/x")
    source.things["a"] = Thing(files(*paths), documents=[SUBJECT])
    box.sync()
    assert set(tree(box)) == {
        "subject.json",
        "%73ubject.json%_",
        "%73ubject.json/child%_",
        "%73ubject.json/child/x",
    }


def test_an_edited_document_makes_a_version_marked_metadata_only(
    box: Box, source: Scripted
) -> None:
    source.things["a"] = Thing(files("x.bin"), documents=[SUBJECT])
    box.sync()
    edited = Document(SUBJECT.path, b'{"subject_id":"2"}\n', at(60))
    source.things["a"].documents = [edited, SESSION]
    result = box.sync()["box:a"]
    assert result.versions == ("2024-03-01T130000Z",)
    first, second = box.entries(VersionMinted)
    assert first.state == second.state
    assert [first.metadata_only, second.metadata_only] == [False, True]
    assert first.metadata == metadata_digest([SUBJECT])
    assert second.metadata == metadata_digest([edited, SESSION])
    source.things["a"].documents = [SESSION]
    box.sync()
    assert "subject.json" not in tree(box)


def test_time_and_label_are_those_of_the_newest_file_or_document(
    box: Box, source: Scripted
) -> None:
    source.things["a"] = Thing(
        {"x.bin": File(b"x", at(1)), "y.bin": File(b"y", at(3))}, documents=[SUBJECT]
    )
    source.things["b"] = Thing({"x.bin": File(b"x", at(7))}, documents=[SUBJECT])
    source.things["c"] = Thing({"x.bin": File(b"x", None)})
    begun = datetime.now(UTC).replace(microsecond=0)
    results = box.sync()
    assert results["box:a"].versions == ("2024-03-01T120500Z",)
    assert results["box:b"].versions == ("2024-03-01T120700Z",)
    date = git(box.repository("box:a"), "log", "-1", "--format=%ct", "main")
    assert int(date) == at(5).timestamp()
    timeless = next(one for one in box.entries(VersionMinted) if one.local_id == "c")
    assert timeless.time is None
    assert datetime.fromisoformat(timeless.at) >= begun
    assert results["box:c"].versions == (f"state-{timeless.state.partition(':')[2][:8]}",)
    assert (
        git(box.repository("box:c"), "log", "-1", "--format=%at %ct", "main").split() == ["1"] * 2
    )
    assert box.sync()["box:c"].status == "notneeded"


def test_what_upstream_says_of_a_dataset_is_in_the_journal(box: Box, source: Scripted) -> None:
    facts = DatasetFacts(
        title="A session",
        attributes=(("modality", "ecephys"), ("modality", "video"), ("subject", "1")),
        inputs=("raw_1",),
    )
    source.things["a"] = Thing(files("x.bin"), facts=facts)
    box.sync()
    (entry,) = box.entries(VersionMinted)
    assert entry.attributes == {"modality": ["ecephys", "video"], "subject": ["1"]}
    assert (entry.inputs, entry.within, entry.title) == (["raw_1"], "", "A session")
    shown = git(box.repository("box:a"), "show", "main:.neuromirror/dataset.json")
    assert json.loads(shown)["title"] == "A session"
