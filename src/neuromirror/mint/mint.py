"""A snapshot becomes git objects: mint spec 1 (docs/design.md, section 5).

A mint is a pure function of the snapshot and its parent commits: two machines, two years apart,
get the same object ids. Nothing here moves a ref.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from neuromirror.annex import link_target, sameas_web_remote
from neuromirror.mint.annex_branch import AnnexBranch, annex_line
from neuromirror.mint.commits import SPEC, annex_message, commit_bytes, version_message
from neuromirror.mint.manifests import ManifestWriter
from neuromirror.mint.objects import ObjectReader
from neuromirror.mint.packs import BLOB, COMMIT, KnownObjects, Pack, PackWriter
from neuromirror.mint.sorting import LineSorter
from neuromirror.mint.trees import FILE, FOLDER, LINK, TreeBuilder, write_tree
from neuromirror.model import (
    PlacedFile,
    SnapshotHeader,
    VersionKind,
    epoch,
    manifest_digest,
    manifest_line,
    text,
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A proven state: its header, and its files sorted by git path, to be read again at will."""

    header: SnapshotHeader
    placed: Callable[[], Iterator[PlacedFile]]


@dataclass(frozen=True, slots=True)
class Parents:
    """What a mint builds on, as commit ids in hex; None where the branch begins.

    ``base`` gives the placed files of the state that was minted last in this repository, when
    there is one: its keys are in the git-annex branch already.
    """

    branch: str | None = None
    annex: str | None = None
    base: Callable[[], Iterator[PlacedFile]] | None = None


@dataclass(frozen=True, slots=True)
class Minted:
    """The objects of a state, waiting in packs under temporary names; ids in hex.

    ``commit`` equals the parent where the tree is the parent's (nothing changed), and the same
    holds for ``annex_commit``. ``manifest`` is a zstd file of the canonical manifest.
    """

    commit: str
    tree: str
    annex_commit: str
    state: str
    files: int
    bytes: int
    evidence: dict[str, int]
    manifest: Path
    pack: Pack | None

    def discard(self) -> None:
        """Removes the files, when the state turned out to be nothing new."""
        self.manifest.unlink(missing_ok=True)
        if self.pack is not None:
            self.pack.pack.unlink(missing_ok=True)
            self.pack.index.unlink(missing_ok=True)


def mint(
    snapshot: Snapshot,
    repository: Path,
    parents: Parents,
    label: Callable[[str], str],
    scratch: Path,
) -> Minted:
    """Writes the objects of a snapshot for a bare repository, as files in ``scratch``.

    ``label`` gives the version's label from its state digest. Raises OSError when the disk is
    full; then, as after any failure, nothing is left behind.
    """
    header = snapshot.header
    if header.version.time is None:
        raise ValueError("a snapshot needs a time to be minted")
    mirror = header.version.dataset.mirror
    with ExitStack() as stack:
        known = KnownObjects(repository / "objects")
        stack.callback(known.close)
        reader = stack.enter_context(ObjectReader(repository))
        pack = stack.enter_context(PackWriter(scratch, known))
        manifest = stack.enter_context(ManifestWriter(scratch))
        lines = stack.enter_context(LineSorter(scratch))
        main = _MainTree(pack, manifest)
        for placed, is_new in _with_news(snapshot.placed(), parents.base):
            main.add(placed)
            if is_new:
                lines.add(annex_line(placed))
        state = manifest.state()
        tree = main.finish(header, state)
        annex_root = None if parents.annex is None else reader.commit_tree(parents.annex)
        timestamp = epoch(header.version.time)
        annex_tree = AnnexBranch(pack, reader, timestamp, annex_root).write(
            lines, _remote_lines(header, timestamp)
        )
        name = label(state)
        commit = parents.branch
        observed = header.version.kind is VersionKind.OBSERVED
        if commit is None or not observed or reader.commit_tree(commit) != tree:
            message = version_message(header, name, state, main.files, main.bytes)
            commit = pack.add(COMMIT, commit_bytes(mirror, tree, commit, timestamp, message)).hex()
        annex = parents.annex
        if annex is None or annex_root != annex_tree:
            message = annex_message(header, name)
            annex = pack.add(
                COMMIT, commit_bytes(mirror, annex_tree, annex, timestamp, message)
            ).hex()
        return Minted(
            commit,
            tree.hex(),
            annex,
            state,
            main.files,
            main.bytes,
            main.evidence,
            manifest.finish(),
            pack.finish(),
        )


class _MainTree:
    """The tree of files: symlinks, upstream's documents, and what makes it a DataLad dataset."""

    def __init__(self, pack: PackWriter, manifest: ManifestWriter) -> None:
        self._pack = pack
        self._manifest = manifest
        self._trees = TreeBuilder(pack)
        self._escaped: dict[str, str] = {}
        self.files = 0
        self.bytes = 0
        self.evidence: dict[str, int] = {}

    def add(self, placed: PlacedFile) -> None:
        path = placed.git_path
        record = placed.record
        sha = self._pack.add(BLOB, link_target(placed.key, path))
        self._trees.add(path, LINK, sha)
        self._manifest.add(manifest_line(path, manifest_digest(record), record.size))
        if record.path != path:
            self._escaped[path.decode()] = text(record.path)
        self.files += 1
        self.bytes += record.size or 0
        word = record.evidence.value
        self.evidence[word] = self.evidence.get(word, 0) + 1

    def finish(self, header: SnapshotHeader, state: str) -> bytes:
        dataset = header.version.dataset
        config = b'[datalad "dataset"]\n\tid = %s\n' % dataset.dataset_id.encode()
        described = describe(header, state, self.files, self.bytes, self.evidence, self._escaped)
        plain = [document.path for document in header.documents]
        more = {
            b".datalad": (FOLDER, self._folder({b"config": config})),
            b".neuromirror": (FOLDER, self._folder({b"dataset.json": described})),
            b".gitattributes": (FILE, self._pack.add(BLOB, _attributes(plain))),
        }
        for document in header.documents:
            more[document.path] = (FILE, self._pack.add(BLOB, document.content))
        return self._trees.finish(more)

    def _folder(self, files: Mapping[bytes, bytes]) -> bytes:
        return write_tree(
            self._pack,
            {name: (FILE, self._pack.add(BLOB, content)) for name, content in files.items()},
        )


def describe(
    header: SnapshotHeader,
    state: str,
    files: int,
    size: int,
    evidence: Mapping[str, int],
    escaped: Mapping[str, str],
) -> bytes:
    """``.neuromirror/dataset.json``: a pure function of the state, with no volatile field."""
    facts = header.facts
    content = {
        "mirror-spec": SPEC,
        "dataset": header.version.dataset.name,
        "source": header.version.dataset.source_uri,
        "version": header.version.upstream,
        "kind": header.version.kind.value,
        "state": state,
        "files": files,
        "bytes": size,
        "evidence": dict(evidence),
        "title": facts.title,
        "license": list(facts.license),
        "doi": facts.doi,
        "landing-page": facts.landing_page,
        "documents": [text(document.path) for document in header.documents],
        "exceptions": [
            {"path": text(one.path), "reason": one.reason, "detail": one.detail, "size": one.size}
            for one in header.exceptions
        ],
        "escaped": dict(escaped),
    }
    return json.dumps(content, indent=1, sort_keys=True).encode("ascii") + b"\n"


def _attributes(plain: list[bytes]) -> bytes:
    lines = [
        b"* annex.backend=SHA256E",
        b"**/.git* annex.largefiles=nothing",
        b"/.datalad/** annex.largefiles=nothing",
        b"/.neuromirror/** annex.largefiles=nothing",
        *(b"/%s annex.largefiles=nothing" % name for name in plain),
    ]
    return b"\n".join(lines) + b"\n"


def _remote_lines(header: SnapshotHeader, timestamp: int) -> list[bytes]:
    """Lines of remote.log for places of another kind."""
    dataset = uuid.UUID(header.version.dataset.dataset_id)
    return [
        sameas_web_remote(
            name=remote.name,
            urlinclude=remote.urlinclude,
            cost=remote.cost,
            timestamp=timestamp,
            uuid=str(uuid.uuid5(dataset, f"remote {remote.name}")),
        )
        for remote in header.web_remotes
    ]


def _with_news(
    current: Iterator[PlacedFile], base: Callable[[], Iterator[PlacedFile]] | None
) -> Iterator[tuple[PlacedFile, bool]]:
    """Each placed file, and whether the git-annex branch may lack something of it."""
    if base is None:
        for placed in current:
            yield placed, True
        return
    before = base()
    old = next(before, None)
    for placed in current:
        while old is not None and old.git_path < placed.git_path:
            old = next(before, None)
        same = (
            old is not None
            and old.git_path == placed.git_path
            and old.key == placed.key
            and old.record.locations == placed.record.locations
        )
        yield placed, not same
