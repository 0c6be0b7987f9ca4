"""Upstream's documents: plain files in git, complete only at the end of a listing."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from neuromirror.model import (
    DatasetFacts,
    Document,
    VersionMinted,
    metadata_digest,
)
from support.mirror_harness import run_git
from support.scripted_source import (
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    ScriptedSource,
    at,
    files,
)

SUBJECT = Document(b"subject.json", b'{"subject_id":"1"}\n', at(5))
SESSION = Document(b"original_metadata/session.json", b"{}\n", at(2))


def tree(box: ScriptedHarness) -> dict[str, str]:
    """Return the mode of each of upstream's files and documents on main, by path."""
    lines = run_git(box.repository("box:a"), "ls-tree", "-r", "-z", "main").split("\0")
    found = {line.partition("\t")[2]: line.partition(" ")[0] for line in lines if line}
    return {path: mode for path, mode in found.items() if not path.startswith((".", '".'))}


def test_documents_that_are_known_at_the_end_are_plain_files(
    scripted_harness: ScriptedHarness, source: ScriptedSource
) -> None:
    source.scripted_datasets["a"] = ScriptedDataset(files("x.bin"), documents=[SUBJECT, SESSION])
    scripted_harness.sync()
    assert tree(scripted_harness) == {
        "original_metadata/session.json": "100644",
        "subject.json": "100644",
        "x.bin": "120000",
    }
    shown = run_git(
        scripted_harness.repository("box:a"), "show", "main:original_metadata/session.json"
    )
    assert shown == SESSION.content.decode()
    scripted_harness.fsck()


def test_the_order_in_which_documents_come_does_not_matter(
    scripted_harness: ScriptedHarness, source: ScriptedSource
) -> None:
    source.memos = False
    source.scripted_datasets["a"] = ScriptedDataset(files("x.bin"), documents=[SUBJECT, SESSION])
    scripted_harness.sync()
    source.scripted_datasets["a"].documents.reverse()
    assert scripted_harness.sync()["box:a"].status == "notneeded"


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
    scripted_harness: ScriptedHarness, source: ScriptedSource, path: str, create_boss_harness: str
) -> None:
    documents = [SUBJECT, SESSION, Document("é.json".encode(), b"{}\n")]
    source.scripted_datasets["a"] = ScriptedDataset(files("x.bin", path), documents=documents)
    scripted_harness.sync()
    with scripted_harness.index() as index:
        row = index.resolve("box:a")
        found = {one.path: one.source_path.decode() for one in index.files(row)}
    assert found == {"x.bin": "x.bin", create_boss_harness: path}
    assert set(found) | {one.path.decode() for one in documents} == set(tree(scripted_harness))
    scripted_harness.fsck()


def test_a_document_with_the_name_of_a_folder_is_renamed(
    scripted_harness: ScriptedHarness, source: ScriptedSource
) -> None:
    paths = ("subject.json", "subject.json/child", "subject.json/child/x")
    source.scripted_datasets["a"] = ScriptedDataset(files(*paths), documents=[SUBJECT])
    scripted_harness.sync()
    assert set(tree(scripted_harness)) == {
        "subject.json",
        "%73ubject.json%_",
        "%73ubject.json/child%_",
        "%73ubject.json/child/x",
    }


def test_an_edited_document_makes_a_version_marked_metadata_only(
    scripted_harness: ScriptedHarness, source: ScriptedSource
) -> None:
    source.scripted_datasets["a"] = ScriptedDataset(files("x.bin"), documents=[SUBJECT])
    scripted_harness.sync()
    edited = Document(SUBJECT.path, b'{"subject_id":"2"}\n', at(60))
    source.scripted_datasets["a"].documents = [edited, SESSION]
    result = scripted_harness.sync()["box:a"]
    assert result.versions == ("2024-03-01T130000Z",)
    first, second = scripted_harness.entries(VersionMinted)
    assert first.state == second.state
    assert [first.metadata_only, second.metadata_only] == [False, True]
    assert first.metadata == metadata_digest([SUBJECT])
    assert second.metadata == metadata_digest([edited, SESSION])
    source.scripted_datasets["a"].documents = [SESSION]
    scripted_harness.sync()
    assert "subject.json" not in tree(scripted_harness)


def test_time_and_label_are_those_of_the_newest_file_or_document(
    scripted_harness: ScriptedHarness, source: ScriptedSource
) -> None:
    source.scripted_datasets["a"] = ScriptedDataset(
        {"x.bin": ScriptedFile(b"x", at(1)), "y.bin": ScriptedFile(b"y", at(3))},
        documents=[SUBJECT],
    )
    source.scripted_datasets["b"] = ScriptedDataset(
        {"x.bin": ScriptedFile(b"x", at(7))}, documents=[SUBJECT]
    )
    source.scripted_datasets["c"] = ScriptedDataset({"x.bin": ScriptedFile(b"x", None)})
    started = datetime.now(UTC).replace(microsecond=0)
    results = scripted_harness.sync()
    assert results["box:a"].versions == ("2024-03-01T120500Z",)
    assert results["box:b"].versions == ("2024-03-01T120700Z",)
    date = run_git(scripted_harness.repository("box:a"), "log", "-1", "--format=%ct", "main")
    assert int(date) == at(5).timestamp()
    timeless = next(one for one in scripted_harness.entries(VersionMinted) if one.local_id == "c")
    assert timeless.time is None
    assert datetime.fromisoformat(timeless.at) >= started
    assert results["box:c"].versions == (f"state-{timeless.state.partition(':')[2][:8]}",)
    assert (
        run_git(
            scripted_harness.repository("box:c"), "log", "-1", "--format=%at %ct", "main"
        ).split()
        == ["1"] * 2
    )
    assert scripted_harness.sync()["box:c"].status == "notneeded"


def test_the_metadata_of_a_dataset_is_in_the_journal(
    scripted_harness: ScriptedHarness, source: ScriptedSource
) -> None:
    facts = DatasetFacts(
        title="A session",
        attributes=(("modality", "ecephys"), ("modality", "video"), ("subject", "1")),
        inputs=("raw_1",),
    )
    source.scripted_datasets["a"] = ScriptedDataset(files("x.bin"), facts=facts)
    scripted_harness.sync()
    (entry,) = scripted_harness.entries(VersionMinted)
    assert entry.attributes == {"modality": ["ecephys", "video"], "subject": ["1"]}
    assert (entry.inputs, entry.within, entry.title) == (["raw_1"], "", "A session")
    shown = run_git(scripted_harness.repository("box:a"), "show", "main:.neuromirror/dataset.json")
    assert json.loads(shown)["title"] == "A session"
