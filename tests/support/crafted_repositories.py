"""Repositories of raw git objects that git itself would not write, and lock files that pin them."""

import hashlib
import json
import subprocess
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from neuromirror.annex import link_target
from neuromirror.lab.lock_manifests import ListedFile, ListedSubdataset, canonical_line
from neuromirror.lab.lockfile import Lock, Pin, PinnedEvidence, dump_lock
from neuromirror.model import Evidence, StateDigest

SHA = hashlib.sha256(b"x").hexdigest()
KEY = f"SHA256E-s1--{SHA}"
LINK, FILE, FOLDER, SUBDATASET = "120000", "100644", "40000", "160000"
WHO = "A <a@neuromirror.invalid> 1700000000 +0000"
_REFS = ("refs/heads/main", "refs/tags/1.0", "refs/heads/git-annex")

Entry = tuple[str, bytes, str]
"""Mode, name and id of an entry of a tree."""


@dataclass
class CraftedRepository:
    """A repository that accepts any object; bare unless it is named ``.git``."""

    path: Path
    description: dict[str, Any] = field(default_factory=dict)
    """A dataset's description, without its state and components."""

    def __post_init__(self) -> None:
        # as git init does, without its process
        for name in ("objects", "refs/heads", "refs/tags"):
            (self.path / name).mkdir(parents=True)
        (self.path / "HEAD").write_text("ref: refs/heads/main\n")
        bare = "false" if self.path.name == ".git" else "true"
        text = f"[core]\n\trepositoryformatversion = 0\n\tbare = {bare}\n"
        (self.path / "config").write_text(text)

    def git(self, *arguments: str) -> str:
        command = ["git", f"--git-dir={self.path}", *arguments]
        return subprocess.run(command, capture_output=True, check=True).stdout.decode()

    def write(self, kind: str, content: bytes) -> str:
        return write_object(self.path, kind, content)

    def blob(self, content: bytes) -> str:
        return self.write("blob", content)

    def tree(self, *entries: Entry) -> str:
        """Write a tree with these entries in this order, without validation."""
        raw = (b"%s %s\0%s" % (m.encode(), name, bytes.fromhex(sha)) for m, name, sha in entries)
        return self.write("tree", b"".join(raw))

    def commit(self, tree: str, state: str = "") -> str:
        label = self.description.get("version", "1.0")
        message = f"demo:000002 {label}\n\nMirror-Spec: 1\nState: {state}\n"
        text = f"tree {tree}\nauthor {WHO}\ncommitter {WHO}\n\n{message}"
        return self.write("commit", text.encode())

    def description_entry(self, state: str, parts: dict[str, Any] | None = None) -> Entry:
        """Return the entry ``.neuromirror``, which describes the dataset."""
        document = {"dataset": "demo:000002", "form": "files", **self.description}
        document |= {"state": state, "parts": parts or {}}
        blob = self.blob(json.dumps(document).encode())
        return FOLDER, b".neuromirror", self.tree((FILE, b"dataset.json", blob))

    def link(self, where: str = "") -> str:
        """Return a symlink like those of git-annex, with the target ``where``."""
        return self.blob(where.encode() + link_target(KEY, b"x"))

    def refs(self, commit: str) -> None:
        """Write a ref for a commit, and an empty git-annex branch."""
        annex = self.commit(self.tree())
        for name, one in zip(_REFS, (commit, commit, annex), strict=True):
            (self.path / name).write_text(f"{one}\n")

    def bundle(self, target: Path, commit: str) -> None:
        """Write a bundle like ``pin``."""
        self.refs(commit)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.git("bundle", "create", "-q", str(target.absolute()), *_REFS)


def write_object(git_dir: Path, kind: str, content: bytes) -> str:
    """Write a loose object without validation; return its id."""
    raw = b"%s %d\0%s" % (kind.encode(), len(content), content)
    sha = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
    path = git_dir / "objects" / sha[:2] / sha[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zlib.compress(raw))
    return sha


def deep_tree(git_dir: Path, inner: str, depth: int) -> str:
    """Write a tree of nested folders around another tree; return its id."""
    for _ in range(depth):
        inner = write_object(git_dir, "tree", b"40000 d\0" + bytes.fromhex(inner))
    return inner


def state_of(*listed: ListedFile | ListedSubdataset) -> str:
    digest = StateDigest()
    for one in listed:
        digest.add(canonical_line(one))
    return digest.value()


def file_at(path: str) -> ListedFile:
    return ListedFile(path, KEY, f"sha256:{SHA}", 1)


def write_lock(path: Path, pin: Pin, **changes: Any) -> Lock:
    """Write a lock file with a copy of a pin, which states the sha256 of the files that exist."""
    commit = changes["commit"]
    folder = f"{path.name}.d/demo--000002/"
    count = changes.setdefault("files", 0)
    stated = {f"{commit}.jsonl.zst": "0" * 64, f"{commit}.bundle": "0" * 64}
    for file in (path.parent / folder).glob("*"):
        stated[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    changed = msgspec.structs.replace(
        pin,
        **{
            "annex_commit": commit,
            "swhid": f"swh:1:rev:{commit}",
            "manifest": f"{folder}{commit}.jsonl.zst",
            "bundle": f"{folder}{commit}.bundle",
            "sha256": tuple(f"{sha256}  {name}" for name, sha256 in stated.items()),
            "clone": (),
            "bytes": count,
            "evidence": {Evidence.SHA256: PinnedEvidence(0, count)} if count else {},
            **changes,
        },
    )
    lock = Lock(path, (changed,))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dump_lock(lock))
    return lock
