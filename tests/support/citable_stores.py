"""Stores with datasets of all kinds of sources to cite, and archives with unusual metadata."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from neuromirror.cli import main
from neuromirror.lab.cite import CitationCollection, CitedWork, cite, read_work, state_of_version
from neuromirror.model import DatasetFacts, Document
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import DemoBoss
from neuromirror_demo.bucket_contents import RAW, RAW_2025, SORTED_2
from neuromirror_demo.ndstore import DemoNdstore
from support.mirror_harness import MirrorHarness
from support.scripted_source import ScriptedDataset, ScriptedHarness, ScriptedSource, files
from support.scripted_zarrs import scripted_zarr

PUBLISHED = "demo:000002"
DRAFT = "demo:000004"
ASSET = f"demo-aind:{RAW}"
DERIVED = f"demo-aind:{SORTED_2}"
INPUT = RAW_2025
VOLUME = "demo-boss:demo_cortex/sections/em"
LABELS = "demo-neurodata:demo15_ramon/synapses"
ALL = (PUBLISHED, DRAFT, ASSET, DERIVED, VOLUME, LABELS)
FORMATS = ("text", "bibtex", "csl", "cff", "datacite", "ro-crate", "croissant")
"""Formats that consist of one file."""


@dataclass(frozen=True)
class CitableStore:
    """A store, and the datasets to cite."""

    mirror_harness: MirrorHarness
    archive: DemoArchive | None = None
    """The archive of its dandisets, if it is running."""

    def work(self, name: str) -> CitedWork:
        dataset, _, label = name.partition("@")
        with self.mirror_harness.index() as index:
            row = index.versions.resolve(dataset, label or "latest")
        return read_work(state_of_version(self.mirror_harness.store, row))

    def collection(self, *names: str) -> CitationCollection:
        return CitationCollection(tuple(map(self.work, names)))

    def citation(self, form: str, *names: str, files: bool = True) -> str:
        return "".join(cite(self.collection(*names), form, files=files))

    def run(self, *arguments: str, code: int = 0) -> Result:
        """Run ``neuromirror cite`` with this store."""
        command = ["--store", str(self.mirror_harness.folder), "cite", *arguments]
        done = CliRunner().invoke(main, command, catch_exceptions=False)
        assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr)
        return done

    def elsewhere(self, folder: Path) -> CitableStore:
        """Return a missing store in a folder, for citations that need none."""
        return CitableStore(MirrorHarness(self.mirror_harness.mirrors, folder))

    def clone(self, name: str, folder: Path, revision: str = "main") -> Path:
        """Clone a dataset, without initializing git-annex."""
        repository = self.mirror_harness.repository(name)
        subprocess.run(["git", "clone", "-q", str(repository), str(folder)], check=True)
        subprocess.run(["git", "-C", str(folder), "checkout", "-q", revision], check=True)
        return folder


@contextmanager
def open_citable_store(folder: Path, cache: Path) -> Iterator[CitableStore]:
    """Create a store with datasets of DANDI, AIND, BOSS and ndstore; the servers keep running."""
    with ExitStack() as stack:
        archive = stack.enter_context(DemoArchive(folder / "demo", cache=cache, buckets=True))
        boss = stack.enter_context(DemoBoss(folder / "boss"))
        stack.enter_context(DemoNdstore(folder / "ndstore"))
        mirrors = folder / "mirrors"
        mirrors.mkdir()
        for mirrors_dir in (archive.mirrors, boss.mirrors, folder / "ndstore" / "mirrors"):
            for path in mirrors_dir.iterdir():
                shutil.copy(path, mirrors)
        store = CitableStore(MirrorHarness(mirrors, folder / "store"), archive)
        done = store.mirror_harness.sync(*ALL)
        assert {one.status for one in done.values()} == {"ok"}, done
        yield store


def build_odd_metadata_store(folder: Path) -> CitableStore:
    """Create a store of scripted dandisets, each named after its unusual property."""
    source = ScriptedSource()
    for name, metadata in ODD_METADATA.items():
        content = json.dumps(metadata).encode() if isinstance(metadata, dict) else metadata
        title = metadata.get("name") if isinstance(metadata, dict) else ""
        source.scripted_datasets[name] = ScriptedDataset(
            files("a.nwb", "b & c.txt", "50%.txt", "über/straße.tif", sha256=True),
            [Document(b"dandiset.yaml", content)],
            DatasetFacts(
                title=title if title and isinstance(title, str) else "Scripted",
                license=("spdx:CC0-1.0",),
            ),
        )
    source.zarrs = {"large": scripted_zarr(9), "huge": scripted_zarr(15)}
    parts = {"sub/large.zarr": "large", "sub/huge.zarr": "huge"}
    source.scripted_datasets["parts"] = ScriptedDataset(
        files("a.txt"), zarrs=parts, has_summary=True
    )
    chunks = (f"sub/v.zarr/{number}" for number in range(9))
    source.scripted_datasets["bucket"] = ScriptedDataset(
        files("a.txt", "sub/v.zarr/.zarray", *chunks)
    )
    harness = ScriptedHarness(folder, source, "[zarr]\ninline = 4\nmanifest = 12\n")
    done = harness.sync()
    assert {one.status for one in done.values()} == {"ok"}, done
    return CitableStore(harness)


def person(name: str, **more: Any) -> dict[str, Any]:
    return {"schemaKey": "Person", "name": name, "includeInCitation": True, **more}


def group(name: str, **more: Any) -> dict[str, Any]:
    return {"schemaKey": "Organization", "name": name, "includeInCitation": True, **more}


NAMES = (
    person("van der Berg, Anna", identifier="0000-0002-1825-0097"),
    person("O'Brien, Seán"),
    person("García Márquez, Ana María"),
    person("de la Cruz, Jr., José"),
    person("王, 小明"),
    person("Достоевский, Фёдор"),
    person("hooks, bell"),
    person("Sand and Stone, Rex"),
    group("The {Brain} & Mind_Lab, Inc.", identifier="https://ror.org/03cpe7c52"),
)
SPECIALS = r"100% of $5 & #1_a ~ ^x \alpha {braces} } <5 Hz @ “quoted” — \"end\""
ODD_METADATA: dict[str, dict[str, Any] | bytes] = {
    "names": {
        "identifier": "DANDI:000077",
        "name": "Names",
        "license": ["spdx:CC-BY-4.0"],
        "contributor": [
            *NAMES,
            person("Not, Cited", includeInCitation=False),
            person(
                "Doe, Jane",
                identifier="0000-0002-1825-0098",
                affiliation=[
                    {"name": "Some University", "identifier": "https://ror.org/042nb2s44"}
                ],
            ),
            group(
                "National Institutes & Co",
                includeInCitation=False,
                roleName=["dcite:Funder"],
                awardNumber="R01 NS1234{5}",
            ),
        ],
        "relatedResource": [
            {"relation": "dcite:IsDescribedBy", "identifier": "doi:10.1101/2024.01.01.123"},
            {"relation": "dcite:IsDescribedBy", "url": "https://doi.org/10.1101/2024.01.01.123"},
            {"relation": "dcite:Befriends", "url": "https://example.org/"},
        ],
    },
    "specials": {"name": SPECIALS, "keywords": [SPECIALS, "a, b"], "description": SPECIALS},
    "markup": {
        "name": "Of <i>Drosophila</i> &amp; <sup>2</sup>H,\n<script>alert(1)</script>"
        "\u202etxt\x1b[1m",
        "description": "<p>One.</p><p>Two<br/>three, a < b.</p>",
        "license": ["https://example.org/our license", "All rights reserved <b>here</b>"],
    },
    "long": {"name": "Very long " * 400, "contributor": [person(f"N{n}, A") for n in range(99)]},
    "nothing": {},
    "no-json": b"name: [\n",
    "wrong": {
        "name": ["a list"],
        "contributor": "Doe, Jane",
        "license": {"a": 1},
        "keywords": [None, 3, {"x": 1}],
        "datePublished": "0000-13-45",
        "relatedResource": [1, {"identifier": 5}],
        "identifier": 7,
    },
    "deep": b'{"name":' + b"[" * 5000 + b"]" * 5000 + b"}",
}
