"""What a commit was minted from, beside the records of its files and its parents.

``records/…/<commit>.mint.zst`` has a line of JSON, and then the contents of those of upstream's
documents that no other file of the dataset has. With it a lost commit is minted again from the
records. A move of the git-annex branch without a version has the name of the branch's commit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import zstandard
from msgspec import Struct
from msgspec.structs import replace

from neuromirror.mint import MintResult, ParentCommits
from neuromirror.model import Document, SnapshotHeader, convert, dump_json
from neuromirror.store.durable_files import make_folder, write_atomically
from neuromirror.store.errors import StoreDamagedError
from neuromirror.store.records import Records


class MintInput(Struct, frozen=True):
    """The input of a mint, and the commits that it gives.

    Attributes
    ----------
    name
        The name of the file: the commit, or that of the git-annex branch if only it moved.
    header
        The header of the snapshot.
    label
        The label of the version.
    within
        The local id of the dataset that has this one as a component, or empty.
    records
        The name of the records in the store.
    parents
        The parent commits.
    commit, annex_commit
        The commits in hex.
    """

    name: str
    header: SnapshotHeader
    label: str
    within: str
    records: str
    parents: ParentCommits
    commit: str
    annex_commit: str

    def matches(self, minted: MintResult) -> bool:
        """Return whether a mint gave the same commits."""
        return (minted.commit, minted.annex_commit) == (self.commit, self.annex_commit)


class _StoredDocument(Struct, frozen=True):
    """A document's sha256, its size, and the name of the file that has its content."""

    sha256: str
    size: int
    name: str


class _StoredInput(Struct, frozen=True):
    """The first line of a file; the documents of the input have no contents."""

    input: MintInput
    documents: list[_StoredDocument]


def write_mint_input(
    records: Records, dataset_id: str, mint_input: MintInput, previous: str | None
) -> None:
    """Store what a version was minted from.

    Documents that the input with the name ``previous`` has, too, are not stored again.
    """
    known: dict[str, _StoredDocument] = {}
    if previous is not None:
        with suppress(StoreDamagedError):
            stored, _ = _read(records.mint_input_path(dataset_id, previous))
            known = {one.sha256: one for one in stored.documents}
    contents: list[bytes] = []
    documents: list[_StoredDocument] = []
    for document in mint_input.header.documents:
        digest = hashlib.sha256(document.content).hexdigest()
        earlier = known.get(digest)
        if earlier is None or not (
            earlier.name == mint_input.name
            or records.mint_input_path(dataset_id, earlier.name).exists()
        ):
            known[digest] = _StoredDocument(digest, len(document.content), mint_input.name)
            contents.append(document.content)
        documents.append(known[digest])
    bare = tuple(replace(one, content=b"") for one in mint_input.header.documents)
    head = replace(mint_input, header=replace(mint_input.header, documents=bare))
    line = dump_json(_StoredInput(head, documents))
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    path = records.mint_input_path(dataset_id, mint_input.name)
    make_folder(path.parent)
    write_atomically(path, compressor.compress(b"\n".join((line, b"".join(contents)))))


def read_mint_input(records: Records, dataset_id: str, name: str) -> MintInput:
    """Return what a version was minted from; raise StoreDamagedError if a file is damaged."""
    path = records.mint_input_path(dataset_id, name)
    stored, own = _read(path)
    if stored.input.name != name:
        raise StoreDamagedError(f"{path} belongs to {stored.input.name}")
    contents = {name: own}
    documents: list[Document] = []
    for bare, one in zip(stored.input.header.documents, stored.documents, strict=True):
        if one.name not in contents:
            contents[one.name] = _read(records.mint_input_path(dataset_id, one.name))[1]
        content = contents[one.name].get(one.sha256)
        if content is None:
            raise StoreDamagedError(f"{path.with_name(f'{one.name}.mint.zst')} lacks a document")
        documents.append(replace(bare, content=content))
    header = replace(stored.input.header, documents=tuple(documents))
    return replace(stored.input, header=header)


def mint_inputs_of(records: Records, dataset_id: str) -> Iterator[MintInput]:
    """Yield all readable inputs of a dataset, without the contents of their documents."""
    for path in sorted(records.mint_input_path(dataset_id, "").parent.glob("*.mint.zst")):
        with suppress(StoreDamagedError):
            yield _read(path)[0].input


def _read(path: Path) -> tuple[_StoredInput, Mapping[str, bytes]]:
    """Return the first line of a file, and the documents in it by sha256."""
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
            line, _, rest = reader.read().partition(b"\n")
        stored = convert(json.loads(line), _StoredInput, str(path))
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise StoreDamagedError(f"{path} cannot be read ({error})") from error
    contents: dict[str, bytes] = {}
    for document in stored.documents:
        if document.name == stored.input.name and document.sha256 not in contents:
            contents[document.sha256], rest = rest[: document.size], rest[document.size :]
            if hashlib.sha256(contents[document.sha256]).hexdigest() != document.sha256:
                raise StoreDamagedError(f"{path}: a document does not match its sha256")
    if rest:
        raise StoreDamagedError(f"{path} has {len(rest)} bytes after its documents")
    return stored, contents
