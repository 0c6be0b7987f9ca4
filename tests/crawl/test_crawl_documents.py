"""Upstream's documents: plain files in git, complete only at the end of a listing."""

import json
from datetime import UTC, datetime

import pytest

from neuromirror.model import DatasetFacts, Document, VersionMinted, metadata_digest
from support.mirror_harness import run_git
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness, at, files

SUBJECT = Document(b"subject.json", b'{"subject_id":"1"}\n', at(5))
SESSION = Document(b"original_metadata/session.json", b"{}\n", at(2))


def tree(box: ScriptedHarness) -> dict[str, str]:
    """Return the mode of each of upstream's files and documents on main, by path."""
    lines = run_git(box.repository("box:a"), "ls-tree", "-r", "-z", "main").split("\0")
    found = {line.partition("\t")[2]: line.partition(" ")[0] for line in lines if line}
    return {path: mode for path, mode in found.items() if not path.startswith((".", '".'))}


def test_documents_that_are_known_at_the_end_are_plain_files(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("x.bin"), documents=[SUBJECT, SESSION])
    harness.sync()
    assert tree(harness) == {
        "original_metadata/session.json": "100644",
        "subject.json": "100644",
        "x.bin": "120000",
    }
    shown = run_git(harness.repository("box:a"), "show", "main:original_metadata/session.json")
    assert shown == SESSION.content.decode()
    harness.fsck()


def test_the_order_in_which_documents_come_does_not_matter(harness: ScriptedHarness) -> None:
    harness.source.memos = False
    harness.datasets["a"] = ScriptedDataset(files("x.bin"), documents=[SUBJECT, SESSION])
    harness.sync()
    harness.datasets["a"].documents.reverse()
    assert harness.sync()["box:a"].status == "notneeded"


@pytest.mark.parametrize(
    ("path", "create_boss_harness"),
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
def test_a_file_that_clashes_with_a_document_is_renamed(
    harness: ScriptedHarness, path: str, create_boss_harness: str
) -> None:
    documents = [SUBJECT, SESSION, Document("é.json".encode(), b"{}\n")]
    harness.datasets["a"] = ScriptedDataset(files("x.bin", path), documents=documents)
    harness.sync()
    with harness.index() as index:
        row = index.versions.resolve("box:a")
        found = {one.path: one.source_path.decode() for one in index.files.of(row)}
    assert found == {"x.bin": "x.bin", create_boss_harness: path}
    assert set(found) | {document.path.decode() for document in documents} == set(tree(harness))
    harness.fsck()


def test_a_document_with_the_name_of_a_folder_is_renamed(harness: ScriptedHarness) -> None:
    paths = ("subject.json", "subject.json/child", "subject.json/child/x")
    harness.datasets["a"] = ScriptedDataset(files(*paths), documents=[SUBJECT])
    harness.sync()
    assert set(tree(harness)) == {
        "subject.json",
        "%73ubject.json%_",
        "%73ubject.json/child%_",
        "%73ubject.json/child/x",
    }


def test_an_edited_document_makes_a_version_marked_metadata_only(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("x.bin"), documents=[SUBJECT])
    harness.sync()
    edited = Document(SUBJECT.path, b'{"subject_id":"2"}\n', at(60))
    harness.datasets["a"].documents = [edited, SESSION]
    result = harness.sync()["box:a"]
    assert result.versions == ("2024-03-01T130000Z",)
    first, second = harness.entries(VersionMinted)
    assert first.state == second.state
    assert [first.metadata_only, second.metadata_only] == [False, True]
    assert first.metadata == metadata_digest([SUBJECT])
    assert second.metadata == metadata_digest([edited, SESSION])
    harness.datasets["a"].documents = [SESSION]
    harness.sync()
    assert "subject.json" not in tree(harness)


def test_time_and_label_are_those_of_the_newest_file_or_document(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(
        {"x.bin": ScriptedFile(b"x", at(1)), "y.bin": ScriptedFile(b"y", at(3))},
        documents=[SUBJECT],
    )
    harness.datasets["b"] = ScriptedDataset(
        {"x.bin": ScriptedFile(b"x", at(7))}, documents=[SUBJECT]
    )
    harness.datasets["c"] = ScriptedDataset({"x.bin": ScriptedFile(b"x", None)})
    started = datetime.now(UTC).replace(microsecond=0)
    results = harness.sync()
    assert results["box:a"].versions == ("2024-03-01T120500Z",)
    assert results["box:b"].versions == ("2024-03-01T120700Z",)
    date = run_git(harness.repository("box:a"), "log", "-1", "--format=%ct", "main")
    assert int(date) == at(5).timestamp()
    timeless = next(entry for entry in harness.entries(VersionMinted) if entry.local_id == "c")
    assert timeless.time is None
    assert datetime.fromisoformat(timeless.at) >= started
    assert results["box:c"].versions == (f"state-{timeless.state.partition(':')[2][:8]}",)
    assert (
        run_git(harness.repository("box:c"), "log", "-1", "--format=%at %ct", "main").split()
        == ["1"] * 2
    )
    assert harness.sync()["box:c"].status == "notneeded"


def test_the_metadata_of_a_dataset_is_in_the_journal(harness: ScriptedHarness) -> None:
    facts = DatasetFacts(
        title="A session",
        attributes=(("modality", "ecephys"), ("modality", "video"), ("subject", "1")),
        inputs=("raw_1",),
    )
    harness.datasets["a"] = ScriptedDataset(files("x.bin"), facts=facts)
    harness.sync()
    (entry,) = harness.entries(VersionMinted)
    assert entry.attributes == {"modality": ["ecephys", "video"], "subject": ["1"]}
    assert (entry.inputs, entry.within, entry.title) == (["raw_1"], "", "A session")
    shown = run_git(harness.repository("box:a"), "show", "main:.neuromirror/dataset.json")
    assert json.loads(shown)["title"] == "A session"
