"""The worked example of the pages on formats is what neuromirror mints."""

import json
import re
import subprocess
import sys
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
from support.mint_oracle import add_pack
from support.store_publisher import git

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference"
_EXAMPLE = re.compile(r"^<!-- example: (\w+) -->\n```\w+\n(.*?)^```$", re.M | re.S)


def examples(page: str) -> dict[str, str]:
    return dict(_EXAMPLE.findall((DOCS / page).read_text("utf-8")))


@pytest.fixture(scope="module", name="given")
def fixture_given() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(examples("mint.md")["input"])
    return found


def test_the_lines_of_python_give_the_state_digest() -> None:
    shown = examples("manifest.md")
    ran = subprocess.run(
        [sys.executable, "-I", "-c", shown["python"]], capture_output=True, text=True, check=True
    )
    assert ran.stdout == shown["state"].splitlines(keepends=True)[-1]


def key_of(one: dict[str, Any]) -> str:
    ending = "." + one["path"].rpartition(".")[2]
    algorithm, _, value = one["digest"].partition(":")
    return f"{algorithm.upper()}E-s{one['size']}--{value}{ending}"


def snapshot(given: dict[str, Any]) -> Snapshot:
    dataset = DatasetRef(given["mirror"], given["local id"], given["source"])
    header = SnapshotHeader(
        VersionRef(
            dataset, given["version"], VersionKind.PUBLISHED, datetime.fromisoformat(given["time"])
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
    repository = Store.open(tmp_path / "store", create=True).repositories.of(
        shot.header.version.dataset
    )
    repository.create()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    minted = mint(shot, repository.path, ParentCommits(), lambda state: given["version"], scratch)
    for pack in minted.packs:
        add_pack(repository.path, pack)

    def shown(name: str) -> str:
        return git(repository.path, "rev-parse" if ":" not in name else "show", name)

    pages = examples("keys.md") | examples("manifest.md") | examples("mint.md")
    ids = {
        "DataLad id": shown(f"{minted.commit}:.datalad/config").split()[-1],
        "tree": minted.tree,
        "commit": minted.commit,
        "git-annex tree": shown(f"{minted.annex_commit}^{{tree}}").strip(),
        "git-annex commit": minted.annex_commit,
    }
    assert pages["ids"] == "".join(f"{name:<17} {value}\n" for name, value in ids.items())
    paths = sorted(one["path"] for one in given["files"])
    links = [shown(f"{minted.commit}:{path}") for path in paths]
    assert pages["links"].splitlines() == links
    assert sorted(pages["keys"].splitlines()) == sorted(Path(link).name for link in links)
    assert pages["described"] == shown(f"{minted.commit}:.neuromirror/dataset.json")
    assert pages["gitattributes"] == shown(f"{minted.commit}:.gitattributes")
    assert pages["metadata"].split()[-1] == json.loads(pages["described"])["metadata"]
    lines = zstandard.ZstdDecompressor().stream_reader(minted.manifest.read_bytes()).read()
    assert pages["state"] == f"{lines.decode()}{minted.state}\n"


def test_extensions_are_as_the_table_says() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \| (?:`([^`]+)`|none) \|$", (DOCS / "keys.md").read_text("utf-8"), re.M
    )
    assert len(rows) == 6
    for name, ending in rows:
        assert key_extension(name) == ending, name
