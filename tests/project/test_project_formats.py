"""The worked example of the pages on formats, made again by hand, and by neuromirror.

Computed with hashlib, json and uuid only, as a second implementation would from the pages.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import zstandard

from neuromirror.annex.keys import key_extension
from neuromirror.mint import ParentCommits, Snapshot, mint
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
)
from neuromirror.store import Store

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference"
_EXAMPLE = re.compile(r"^<!-- example: (\w+) -->\n```\w+\n(.*?)^```$", re.M | re.S)
WEB = "00000000-0000-0000-0000-000000000001"


def examples(page: str) -> dict[str, str]:
    return dict(_EXAMPLE.findall((DOCS / page).read_text("utf-8")))


@pytest.fixture(scope="module", name="given")
def fixture_given() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(examples("mint.md")["input"])
    return found


# --- by hand


class Objects:
    """git's objects as bytes by id; trees of dictionaries."""

    def add(self, kind: str, content: bytes) -> str:
        return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()

    def tree(self, entries: dict[str, Any]) -> str:
        """``name`` → (mode, bytes) of a file or link, or a dictionary of a folder."""
        found = []
        for name, entry in entries.items():
            if isinstance(entry, dict):
                found.append((name + "/", "40000", name, self.tree(entry)))
            else:
                found.append((name, entry[0], name, self.add("blob", entry[1])))
        body = b"".join(
            f"{mode} {name}\0".encode() + bytes.fromhex(sha)
            for _, mode, name, sha in sorted(found, key=lambda one: one[0].encode())
        )
        return self.add("tree", body)


def put(tree: dict[str, Any], path: str, mode: str, content: bytes) -> None:
    *folders, name = path.split("/")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[name] = (mode, content)


def key_of(one: dict[str, Any]) -> str:
    ending = "." + one["path"].rpartition(".")[2]
    algorithm, _, value = one["digest"].partition(":")
    return f"{algorithm.upper()}E-s{one['size']}--{value}{ending}"


def link_of(key: str, path: str) -> str:
    number = int.from_bytes(hashlib.md5(key.encode()).digest()[:3], "little")
    signs = "0123456789zqjxkmvwgpfZQJXKMVWGPF"
    first, second, third, fourth = (signs[number >> by & 31] for by in (6, 0, 18, 12))
    up = "../" * path.count("/")
    return f"{up}.git/annex/objects/{first}{second}/{third}{fourth}/{key}/{key}"


def manifest_of(entries: list[tuple[str, str, int]]) -> str:
    return "".join(
        json.dumps({"digest": digest, "path": path, "size": size}, separators=(",", ":")) + "\n"
        for path, digest, size in sorted(entries)
    )


def sha256(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def made_by_hand(given: dict[str, Any]) -> dict[str, str]:
    """Return the examples of the pages, computed from their inputs."""
    files, documents = given["files"], given["documents"]
    state = manifest_of([(one["path"], one["digest"], one["size"]) for one in files])
    metadata = manifest_of(
        [(path, sha256(text), len(text.encode())) for path, text in documents.items()]
    )
    keys = {one["path"]: key_of(one) for one in files}
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, given["source"]))
    name = f"{given['mirror']}:{given['local id']}"
    count, size = len(files), sum(one["size"] for one in files)
    described = {
        "mirror-spec": 1,
        "dataset": name,
        "source": given["source"],
        "version": given["version"],
        "kind": "published",
        "within": "",
        "form": "files",
        "state": sha256(state),
        "metadata": sha256(metadata),
        "files": count,
        "bytes": size,
        "manifest-only": {"files": 0, "bytes": 0},
        "evidence": {one["digest"].partition(":")[0]: 1 for one in files},
        "parts": {},
        "inline": {},
        "title": given["title"],
        "license": given["license"],
        "doi": None,
        "landing-page": None,
        "attributes": {},
        "inputs": [],
        "documents": sorted(documents),
        "exceptions": [],
        "escaped": {},
    }
    text = json.dumps(described, indent=1, sort_keys=True) + "\n"
    attributes = examples("mint.md")["gitattributes"]
    objects, tree, annex = Objects(), dict[str, Any](), dict[str, Any]()
    for path, key in keys.items():
        put(tree, path, "120000", link_of(key, path).encode())
    for path, document in documents.items():
        put(tree, path, "100644", document.encode())
    put(tree, ".datalad/config", "100644", f'[datalad "dataset"]\n\tid = {identity}\n'.encode())
    put(tree, ".neuromirror/dataset.json", "100644", text.encode())
    put(tree, ".gitattributes", "100644", attributes.encode())
    seconds = int(datetime.fromisoformat(given["time"]).timestamp())
    for one in files:
        key = keys[one["path"]]
        digest = hashlib.md5(key.encode()).hexdigest()
        where = f"{digest[:3]}/{digest[3:6]}/{key}.log"
        put(annex, where, "100644", f"{seconds}s 1 {WEB}\n".encode())
        put(annex, f"{where}.web", "100644", f"{seconds}s 1 {one['url']}\n".encode())
    who = f"neuromirror <{given['mirror']}@neuromirror.invalid> {seconds} +0000"

    def commit(tree: str, message: str) -> str:
        head = f"tree {tree}\nauthor {who}\ncommitter {who}\n\n{name} {given['version']}\n\n"
        return objects.add("commit", f"{head}Mirror-Spec: 1\n{message}".encode())

    top, logs = objects.tree(tree), objects.tree(annex)
    trailers = (
        f"Source: {given['source']}\nVersion: {given['version']}\nState: {sha256(state)}\n"
        f"Files: {count}\nBytes: {size}\n"
    )
    links = "".join(f"{link_of(key, path)}\n" for path, key in sorted(keys.items()))
    ids = {
        "DataLad id": identity,
        "tree": top,
        "commit": commit(top, trailers),
        "git-annex tree": logs,
        "git-annex commit": commit(logs, ""),
    }
    return {
        "keys": "".join(f"{keys[path]}\n" for path in sorted(keys, reverse=True)),
        "links": links,
        "state": f"{state}{sha256(state)}\n",
        "metadata": f"{metadata}{sha256(metadata)}\n",
        "described": text,
        "ids": "".join(f"{what:<17} {one}\n" for what, one in ids.items()),
    }


@pytest.mark.parametrize("page", ["keys.md", "manifest.md", "mint.md"])
def test_the_examples_are_what_their_pages_say(page: str, given: dict[str, Any]) -> None:
    made = made_by_hand(given)
    shown = {name: text for name, text in examples(page).items() if name in made}
    assert shown
    assert shown == {name: made[name] for name in shown}


def test_the_lines_of_python_give_the_state_digest() -> None:
    shown = examples("manifest.md")
    ran = subprocess.run(
        [sys.executable, "-I", "-c", shown["python"]], capture_output=True, text=True, check=True
    )
    assert ran.stdout == shown["state"].splitlines(keepends=True)[-1]


# --- by neuromirror


def snapshot(given: dict[str, Any]) -> Snapshot:
    dataset = DatasetRef(given["mirror"], given["local id"], given["source"])
    header = SnapshotHeader(
        VersionRef(
            dataset,
            given["version"],
            VersionKind.PUBLISHED,
            datetime.fromisoformat(given["time"]),
        ),
        facts=DatasetFacts(title=given["title"], license=tuple(given["license"])),
        documents=tuple(
            Document(path.encode(), text.encode()) for path, text in given["documents"].items()
        ),
    )
    placed = [
        SnapshotEntry(
            one["path"].encode(),
            key_of(one),
            FileRecord(
                one["path"].encode(),
                one["size"],
                (Digest(*one["digest"].split(":"), claimed_by="upstream"),),
                (Location(one["url"], "s3"),),
            ),
        )
        for one in sorted(given["files"], key=lambda one: one["path"].encode())
    ]
    return Snapshot(header, lambda: iter(placed))


def test_neuromirror_mints_the_example(given: dict[str, Any], tmp_path: Path) -> None:
    shot = snapshot(given)
    repository = Store.open(tmp_path / "store", create=True).repository(shot.header.version.dataset)
    repository.create()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    minted = mint(shot, repository.path, ParentCommits(), lambda state: given["version"], scratch)
    ids = examples("mint.md")["ids"]
    for one in (minted.commit, minted.tree, minted.annex_commit):
        assert one in ids
    lines = zstandard.ZstdDecompressor().stream_reader(minted.manifest.read_bytes()).read()
    assert lines.decode() + minted.state + "\n" == examples("manifest.md")["state"]


def test_extensions_are_as_the_table_says() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \| (?:`([^`]+)`|none) \|$", (DOCS / "keys.md").read_text("utf-8"), re.M
    )
    assert len(rows) == 6
    for name, ending in rows:
        assert key_extension(name) == ending, name
