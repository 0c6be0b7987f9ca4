"""Mint states into a repository, and compute the expected trees with ``git fast-import``."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from neuromirror.annex import (
    fits_path_limits,
    git_path,
    key_for,
    link_target,
    location_log,
    log_path,
    mark_clash,
    merge_url_log,
    untrusted_line,
    url_log,
    url_log_path,
    uuid_line,
    web_remote,
)
from neuromirror.git import Pack
from neuromirror.mint import DeltaBase, MintResult, ParentCommits, Snapshot, mint, mint_delta
from neuromirror.model import (
    DatasetFacts,
    DatasetRef,
    Digest,
    Document,
    FileRecord,
    Location,
    SnapshotEntry,
    SnapshotHeader,
    VersionKind,
    VersionRef,
    WebRemote,
    diff_lines,
    dump_snapshot_entry,
    load_changes,
    path_to_text,
)

FIRST_TIME = datetime(2022, 12, 13, 10, 11, 12, tzinfo=UTC)
DATASET = DatasetRef("demo", "000001", "https://api.example.org/api/dandisets/000001/")
DATASET_ID = "3fbdcba2-ce56-59de-89cf-006b153b0416"
REMOTE_ID = "26d77478-4e75-5480-9066-527cc2bbd54d"
REMOTE = WebRemote("demo-api", "*//api.example.org/*", 300)
DOCUMENT = Document(b"dandiset.yaml", b"name: a demo\n")

DOCUMENTS = (
    b"a-b/a/doc.json",
    b"b",
    b"meta/my notes.json",
    b"meta/a*[1]?.json",
    b"meta/deep/er/e.json",
    b'say "hi".json',
    "été.json".encode(),
    b"#.json",
    b"!.json",
)
"""Paths of documents."""

ATTRIBUTES = b"""\
* -text
* annex.backend=SHA256E
**/.git* annex.largefiles=nothing
/.boss/** annex.largefiles=nothing
/.dandi/** annex.largefiles=nothing
/.datalad/** annex.largefiles=nothing
/.ndstore/** annex.largefiles=nothing
/.neuromirror/** annex.largefiles=nothing
/.precomputed/** annex.largefiles=nothing
/dandiset.yaml annex.largefiles=nothing
/*.json annex.largefiles=(largerthan=4MiB)
/original_metadata/** annex.largefiles=(largerthan=4MiB)
info annex.largefiles=(largerthan=4MiB)
provenance annex.largefiles=(largerthan=4MiB)
zarr.json annex.largefiles=(largerthan=4MiB)
"""
"""The content of ``.gitattributes`` in every dataset."""

QUOTED_PATHS = {b'a/q "z" #;.zarr': b'"a/q \\"z\\" #;.zarr"', b"new zarr": b'"new zarr"'}
"""Paths of subdatasets, and the same quoted in git's configuration syntax."""


def git(repository: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """Return the output of a git command; fail with git's stderr."""
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments], input=stdin, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def bare_repository(path: Path) -> Path:
    """Create a bare repository."""
    path.mkdir()
    git(path, "init", "-q", "--bare", "-b", "main")
    return path


def record(path: bytes, content: int, locations: Iterable[int] = (0,)) -> FileRecord:
    """Return the record of a file with this content; the kind of digest depends on the number."""
    digest = hashlib.sha256(b"%d" % content).hexdigest()
    claims = [("sha256", digest), ("md5", digest[:32]), ("etag", f"{digest[:32]}-3")]
    kind = content % 4
    return FileRecord(
        path=path,
        size=None if content % 5 == 4 and kind != 2 else 10 * content,
        digests=() if kind == 3 else (Digest(*claims[kind], "demo"),),
        locations=tuple(
            Location(
                f"https://s3.example.org/{content}?versionId=version-{location}",
                "s3",
                str(location),
            )
            for location in locations
        ),
        part_size=64 if kind == 2 else None,
        modified=FIRST_TIME,
    )


def placed_files(files: Mapping[bytes, FileRecord]) -> list[SnapshotEntry]:
    """Return the files under their escaped names, sorted, as in a validated listing."""
    paths = {name: git_path(name) for name in files}
    folders = {path[:end] for path in paths.values() for end, one in enumerate(path) if one == 47}
    placed = []
    for name, path in paths.items():
        final = mark_clash(path) if path in folders else path
        if fits_path_limits(final):
            placed.append(SnapshotEntry(final, key_for(files[name], final), files[name]))
    return sorted(placed, key=lambda one: one.git_path)


def header(
    number: int = 0,
    kind: VersionKind = VersionKind.OBSERVED,
    remotes: tuple[WebRemote, ...] = (REMOTE,),
) -> SnapshotHeader:
    """Return the header of a state; states are a thousand seconds apart."""
    moment = FIRST_TIME + timedelta(seconds=1000 * number)
    return SnapshotHeader(
        VersionRef(DATASET, "draft", kind, moment),
        DatasetFacts(title=f"Title {number}", license=("spdx:CC-BY-4.0",)),
        documents=(DOCUMENT,),
        web_remotes=remotes,
    )


def timestamp(number: int) -> int:
    """Return the time of the state with this number, in whole seconds."""
    return int(FIRST_TIME.timestamp()) + 1000 * number


def add_pack(repository: Path, pack: Pack) -> None:
    """Move a pack into a repository."""
    for path, end in ((pack.pack, "pack"), (pack.index, "idx")):
        path.rename(repository / "objects" / "pack" / f"{pack.name}.{end}")


def pack_ids(index: Path) -> list[str]:
    """Return the ids in a pack's index, as read by git."""
    done = subprocess.run(
        ["git", "show-index"], input=index.read_bytes(), capture_output=True, check=True
    )
    return [line.split()[1] for line in done.stdout.decode().splitlines()]


@dataclass
class MintedRepository:
    """A repository and the last state minted into it."""

    folder: Path
    repository: Path
    commit: str | None = None
    annex: str | None = None
    last: list[SnapshotEntry] | None = None
    manifest: Path | None = None

    @classmethod
    def create(cls, folder: Path) -> MintedRepository:
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, bare_repository(folder / "repository"))

    def mint(
        self, number: int, files: list[SnapshotEntry], head: SnapshotHeader | None = None
    ) -> MintResult:
        """Mint a state into the repository."""
        parents = ParentCommits(self.commit, self.annex)
        snapshot = Snapshot(head or header(number), lambda: iter(files))
        return self._apply(
            mint(snapshot, self.repository, parents, lambda state: f"label-{number}", self.scratch),
            files,
        )

    def mint_records(
        self, number: int, files: list[SnapshotEntry], head: SnapshotHeader | None = None
    ) -> MintResult:
        """Mint a state from a file of records, as a visit does."""
        records = self.folder / "records"
        records.write_bytes(b"".join(dump_snapshot_entry(file) + b"\n" for file in files))
        snapshot = Snapshot.from_records(head or header(number), records)
        parents = ParentCommits(self.commit, self.annex)
        return self._apply(
            mint(snapshot, self.repository, parents, lambda state: f"label-{number}", self.scratch),
            files,
        )

    def mint_delta(
        self, number: int, files: list[SnapshotEntry], head: SnapshotHeader | None = None
    ) -> MintResult:
        """Mint a state from the changes since the last one."""
        assert self.commit is not None
        assert self.manifest is not None
        assert self.last is not None
        before = [dump_snapshot_entry(one) for one in self.last]
        after = [dump_snapshot_entry(file) for file in files]
        minted = mint_delta(
            head or header(number),
            lambda: load_changes(diff_lines(before, after)),
            DeltaBase(self.commit, self.manifest),
            self.repository,
            ParentCommits(self.commit, self.annex),
            lambda state: f"label-{number}",
            self.scratch,
        )
        return self._apply(minted, files)

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    def _apply(self, minted: MintResult, files: list[SnapshotEntry]) -> MintResult:
        self.manifest = minted.manifest.rename(self.folder / "manifest")
        for pack in minted.packs:
            add_pack(self.repository, pack)
        assert not list(self.scratch.iterdir())
        git(self.repository, "update-ref", "refs/heads/main", minted.commit)
        git(self.repository, "update-ref", "refs/heads/git-annex", minted.annex_commit)
        self.commit, self.annex, self.last = minted.commit, minted.annex_commit, files
        return minted


@dataclass
class FastImportOracle:
    """Writes the same states with ``git fast-import``."""

    repository: Path
    logs: dict[bytes, bytes] = field(default_factory=dict)

    def trees(
        self, number: int, files: list[SnapshotEntry], head: SnapshotHeader | None = None
    ) -> tuple[str, str]:
        """Write a state; return the tree ids of ``main`` and ``git-annex``."""
        head = head or header(number)
        shown = [file for file in files if is_in_tree(file, head.form)]
        links = [one for one in shown if one.subdataset is None]
        parts = [one for one in shown if one.subdataset is not None]
        main = {link.git_path: (b"120000", link_target(link.key, link.git_path)) for link in links}
        main |= {
            part.git_path: (b"160000", part.subdataset.commit.encode())
            for part in parts
            if part.subdataset
        }
        plain = {
            b".datalad/config": b'[datalad "dataset"]\n\tid = %s\n' % DATASET_ID.encode(),
            b".gitattributes": ATTRIBUTES,
            b".neuromirror/dataset.json": dataset_json(head, files),
        }
        plain |= {document.path: document.content for document in head.documents}
        if parts:
            plain[b".gitmodules"] = b"".join(map(gitmodules_section, parts))
        main |= {path: (b"100644", content) for path, content in plain.items()}
        self._log(number, links)
        annex = {path: (b"100644", content) for path, content in self.logs.items()}
        return self._import(b"main", main), self._import(b"git-annex", annex)

    def _log(self, number: int, files: list[SnapshotEntry]) -> None:
        urls: dict[str, set[str]] = {}
        for file in files:
            urls.setdefault(file.key, set()).update(at.url for at in file.record.locations)
        for key, found in urls.items():
            if not found:
                continue
            self.logs.setdefault(log_path(key), location_log(timestamp(number)))
            path = url_log_path(key)
            if path in self.logs:
                self.logs[path] = merge_url_log(self.logs[path], sorted(found), timestamp(number))
            else:
                self.logs[path] = url_log(found, timestamp(number))
        remote = web_remote(
            REMOTE.name,
            REMOTE.cost,
            timestamp(number),
            uuid=REMOTE_ID,
            urlinclude=REMOTE.urlinclude,
        )
        self.logs.setdefault(b"remote.log", remote)
        self.logs.setdefault(b"uuid.log", uuid_line(REMOTE.name, REMOTE_ID, timestamp(number)))
        self.logs.setdefault(b"trust.log", untrusted_line(REMOTE_ID, timestamp(number)))

    def _import(self, branch: bytes, files: Mapping[bytes, tuple[bytes, bytes]]) -> str:
        stream = b"commit refs/heads/%s\ncommitter A <a@example.invalid> 1 +0000\ndata 0\n" % branch
        stream += b"deleteall\n"
        for path, (mode, content) in files.items():
            quoted = path.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
            if mode == b"160000":
                stream += b'M 160000 %s "%s"\n' % (content, quoted)
                continue
            stream += b'M %s inline "%s"\ndata %d\n%s\n' % (mode, quoted, len(content), content)
        git(self.repository, "fast-import", "--quiet", "--force", stdin=stream)
        return git(self.repository, "rev-parse", f"{branch.decode()}^{{tree}}").decode().strip()


def is_in_tree(one: SnapshotEntry, form: str) -> bool:
    """Return whether the tree of the state contains the file."""
    kept = (b".zgroup", b".zarray", b".zattrs", b".zmetadata", b"zarr.json")
    return form == "files" or one.subdataset is not None or one.record.path.split(b"/")[-1] in kept


def gitmodules_section(placed: SnapshotEntry) -> bytes:
    """Return the expected section of ``.gitmodules`` for a subdataset."""
    assert placed.subdataset is not None
    name, own = placed.git_path, placed.subdataset.dataset_id.encode()
    quoted = QUOTED_PATHS.get(name, b'"%s"' % name)
    return b"[submodule %s]\n\tpath = %s\n\turl = ../../%s/%s\n\tdatalad-id = %s\n" % (
        *(quoted, QUOTED_PATHS.get(name, name), own[:3], own[3:], own),
    )


def dataset_json(head: SnapshotHeader, files: list[SnapshotEntry]) -> bytes:
    """Return the expected content of ``.neuromirror/dataset.json``."""
    evidence: dict[str, int] = {}
    parts: dict[str, object] = {}
    lines = b""
    for file in files:
        if (part := file.subdataset) is not None:
            parts[file.git_path.decode()] = {
                "id": part.dataset_id,
                "local-id": part.local_id,
                "state": part.state,
                "files": part.files,
                "bytes": part.bytes,
            }
            lines += manifest_line(
                {"dataset": part.dataset_id, "path": file.git_path.decode(), "state": part.state}
            )
            continue
        evidence_name = str(file.record.evidence)
        evidence[evidence_name] = evidence.get(evidence_name, 0) + 1
        digest = "none"
        for claim in file.record.digests:
            digest = f"{claim.algorithm}:{claim.value}"
            digest += "-64" if claim.algorithm == "etag" else ""
        lines += manifest_line(
            {"digest": digest, "path": file.git_path.decode(), "size": file.record.size}
        )
    documents = b""
    for document in sorted(head.documents, key=lambda one: one.path):
        digest = f"sha256:{hashlib.sha256(document.content).hexdigest()}"
        documents += manifest_line(
            {"digest": digest, "path": document.path.decode(), "size": len(document.content)}
        )
    own = [one for one in files if one.subdataset is None]
    only = [one for one in own if not is_in_tree(one, head.form)]
    attributes: dict[str, list[str]] = {}
    for name, value in head.facts.attributes:
        attributes.setdefault(name, []).append(value)
    content = {
        "mirror-spec": 1,
        "dataset": "demo:000001",
        "source": "https://api.example.org/api/dandisets/000001/",
        "within": "",
        "version": "draft",
        "kind": "observed",
        "form": head.form,
        "state": f"sha256:{hashlib.sha256(lines).hexdigest()}",
        "metadata": f"sha256:{hashlib.sha256(documents).hexdigest()}",
        "files": len(own),
        "bytes": sum(one.record.size or 0 for one in own),
        "manifest-only": {"files": len(only), "bytes": sum(one.record.size or 0 for one in only)},
        "parts": parts,
        "inline": {
            path_to_text(one.path): {
                "source": one.source_uri,
                "checksum": one.checksum,
                "files": one.files,
                "bytes": one.bytes,
            }
            for one in head.inline
        },
        "evidence": evidence,
        "title": head.facts.title,
        "license": ["spdx:CC-BY-4.0"],
        "doi": None,
        "landing-page": None,
        "attributes": attributes,
        "inputs": list(head.facts.inputs),
        "documents": sorted(one.path.decode() for one in head.documents),
        "exceptions": [],
        "escaped": {
            one.git_path.decode(): path_to_text(one.record.path)
            for one in files
            if one.git_path != one.record.path and one not in only
        },
    }
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def manifest_line(line: dict[str, object]) -> bytes:
    """Return a line of a manifest."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
