"""What the whole-state writer and the delta writer share: a mint under way."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from neuromirror.annex import sameas_web_remote, special_remote, uuid_line
from neuromirror.mint.annex_branch import NAMES, REMOTES, AnnexBranch
from neuromirror.mint.commits import annex_message, commit_bytes, version_message
from neuromirror.mint.documents import describe, plain_documents, root_entries
from neuromirror.mint.manifests import ManifestWriter
from neuromirror.mint.objects import ObjectMissing, ObjectReader, git_environment
from neuromirror.mint.packs import COMMIT, KnownObjects, Pack, PackWriter
from neuromirror.mint.sums import Sums
from neuromirror.model import SnapshotHeader, Summary, VersionKind, epoch, metadata_digest


@dataclass(frozen=True, slots=True)
class Parents:
    """What a mint builds on, as commit ids in hex; None where the branch begins."""

    branch: str | None = None
    annex: str | None = None


def next_second(repository: Path, parent: str | None) -> int:
    """Return the date of a commit whose state has no upstream time.

    It is second N of 1970 for the Nth commit of the branch, so that it follows from the chain
    alone. ``parent`` is the branch's last commit in hex, None where the branch begins.
    """
    if parent is None:
        return 1
    done = subprocess.run(
        ["git", "rev-list", "--count", "--first-parent", parent],
        env=git_environment(repository),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ObjectMissing(
            f"{repository}: git cannot count the commits up to {parent} ({done.stderr.strip()}); "
            "restore the repository from a backup"
        )
    return int(done.stdout) + 1


@dataclass(frozen=True, slots=True)
class Minted:
    """The objects of a state, waiting in packs under temporary names; ids in hex.

    ``commit`` equals the parent where the tree is the parent's (nothing changed), and the same
    holds for ``annex_commit``. ``manifest`` is a zstd file of the canonical manifest, ``metadata``
    the metadata digest. ``files``, ``bytes`` and ``evidence`` are of the state's own files;
    ``manifest_only`` of those among them that have no place in git, ``in_parts`` of those that are
    not its own but its sub-datasets'. So what was listed is ``files`` and ``in_parts``, documents
    and named exceptions; and what is committed here is ``files`` but for ``manifest_only``.
    """

    commit: str
    tree: str
    annex_commit: str
    state: str
    files: int
    bytes: int
    evidence: dict[str, int]
    manifest_only: Summary
    in_parts: Summary
    metadata: str
    manifest: Path
    packs: tuple[Pack, ...]

    def discard(self) -> None:
        """Removes the files, when the state turned out to be nothing new."""
        self.manifest.unlink(missing_ok=True)
        for pack in self.packs:
            pack.discard()


class Work:
    """A mint under way: objects go to ``pack``, manifest lines to ``manifest``.

    A context manager; what is not finished leaves nothing behind. ``reader`` reads the objects
    that the repository has. ``documents`` are upstream's, in order of path.
    """

    def __init__(
        self,
        header: SnapshotHeader,
        repository: Path,
        parents: Parents,
        scratch: Path,
        within: str = "",
    ) -> None:
        if header.form not in ("files", "manifest"):
            raise ValueError(f"there is no form {header.form!r} of a dataset")
        if len(header.special_remotes) > 1:
            raise ValueError("a dataset has one special remote at most")
        self.header = header
        self.within = within
        self.documents = plain_documents(header)
        self.parents = parents
        time = header.version.time
        self.timestamp = next_second(repository, parents.branch) if time is None else epoch(time)
        with ExitStack() as stack:
            known = KnownObjects(repository / "objects")
            stack.callback(known.close)
            self.reader = stack.enter_context(ObjectReader(repository))
            self.pack = stack.enter_context(PackWriter(scratch, known))
            self.manifest = stack.enter_context(ManifestWriter(scratch))
            annex = parents.annex
            self.annex_root = None if annex is None else self.reader.commit_tree(annex)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def settings(self) -> dict[bytes, list[bytes]]:
        """Lines of files at the top of the git-annex branch: places of another kind than the web.

        A web remote of one dataset has a UUID of its own, a special remote the same everywhere.
        """
        header, stamp = self.header, self.timestamp
        dataset = uuid.UUID(header.version.dataset.dataset_id)
        web = [
            sameas_web_remote(
                name=remote.name,
                urlinclude=remote.urlinclude,
                cost=remote.cost,
                timestamp=stamp,
                uuid=str(uuid.uuid5(dataset, f"remote {remote.name}")),
            )
            for remote in header.web_remotes
        ]
        special = [
            special_remote(one.name, one.externaltype, one.uuid, stamp)
            for one in header.special_remotes
        ]
        names = [uuid_line(one.name, one.uuid, stamp) for one in header.special_remotes]
        return {REMOTES: [*web, *special], NAMES: names}

    @property
    def special(self) -> str | None:
        """The UUID of the remote that gets what is claimed; None where there is none."""
        return next((one.uuid for one in self.header.special_remotes), None)

    def annex_tree(self, lines: Iterable[bytes]) -> bytes:
        """Writes the git-annex branch's trees from sorted lines (see annex_line)."""
        branch = AnnexBranch(self.pack, self.reader, self.timestamp, self.annex_root, self.special)
        return branch.write(lines, self.settings)

    def root_entries(self, sums: Sums) -> dict[bytes, tuple[bytes, bytes]]:
        """Writes the root's own files, once all manifest lines are in: name → (mode, id)."""
        state = self.manifest.state()
        described = describe(self.header, self.documents, self.within, state, sums)
        return root_entries(self.pack, self.header, self.documents, described, sums)

    def finish(
        self,
        sums: Sums,
        tree: bytes,
        annex_tree: bytes,
        label: Callable[[str], str],
        packs: tuple[Pack, ...] = (),
    ) -> Minted:
        """Writes the commits, where there is something new, and completes the files.

        ``packs`` are finished ones that belong to the state too.
        """
        state = self.manifest.state()
        name = label(state)
        mirror = self.header.version.dataset.mirror
        commit, annex = self.parents.branch, self.parents.annex
        observed = self.header.version.kind is VersionKind.OBSERVED
        if commit is None or not observed or self.reader.commit_tree(commit) != tree:
            message = version_message(self.header, name, state, sums.files, sums.bytes)
            commit = self._commit(mirror, tree, commit, message)
        if annex is None or self.annex_root != annex_tree:
            annex = self._commit(mirror, annex_tree, annex, annex_message(self.header, name))
        kept = self.manifest.finish()
        with ExitStack() as undo:
            undo.callback(kept.unlink, missing_ok=True)
            own = self.pack.finish()
            undo.pop_all()
        return Minted(
            commit=commit,
            tree=tree.hex(),
            annex_commit=annex,
            state=state,
            files=sums.files,
            bytes=sums.bytes,
            evidence=sums.evidence,
            manifest_only=sums.manifest_only,
            in_parts=sums.in_parts,
            metadata=metadata_digest(self.documents),
            manifest=kept,
            packs=packs if own is None else (*packs, own),
        )

    def _commit(self, mirror: str, tree: bytes, parent: str | None, message: str) -> str:
        content = commit_bytes(mirror, tree, parent, self.timestamp, message)
        return self.pack.add(COMMIT, content).hex()
