"""Details of a state besides its files in the catalogue: sidecars, times, other copies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror.web.rendering import FILTERS
from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import BEHAVIOR, MEAREC
from support.mirror_harness import MirrorHarness
from support.running_catalogue import run_catalogue, visible_text
from support.scripted_source import ScriptedDataset, ScriptedHarness, files

AIND, BENCHMARK = "demo-aind", "demo-aind-benchmark"
ASSET = "ecephys_600000_2022-06-28_10-31-30"


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    """Empty buckets, without an overview that reports changes."""
    with DemoBuckets(tmp_path / "buckets", empty=True) as running:
        mirror = running.mirrors / f"{AIND}.toml"
        lines = [one for one in mirror.read_text().splitlines() if not one.startswith("docdb")]
        mirror.write_text("\n".join(lines) + "\n")
        yield running


@pytest.fixture
def bucket_harness(buckets: DemoBuckets, tmp_path: Path) -> MirrorHarness:
    """A store that mirrors the buckets."""
    return MirrorHarness(buckets.mirrors, tmp_path / "store")


def test_a_sidecar_that_cannot_be_read_is_on_the_page_of_its_dataset(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    description = json.dumps({"license": "CC-BY-4.0", "project_name": "Ripples"}).encode()
    path, name = f"{ASSET}/data_description.json", f"{AIND}:{ASSET}"
    buckets.put(f"{ASSET}/data.bin", b"voltages")
    for content, is_readable in ((description, True), (description[:-9], False)):
        buckets.put(path, content)
        assert bucket_harness.sync(name)[name].status == "ok"
        with run_catalogue(bucket_harness.store) as site:
            text, mirrors = site.text(f"/dataset/{name}"), site.page("/mirrors")
        # the last readable content stays
        assert " Project Ripples " in text
        assert (" Unreadable sidecar data_description.json" in text) is not is_readable
        assert ("unreadable-sidecar" in mirrors) is not is_readable


def test_the_time_of_observation_is_on_the_pages_of_a_state_without_another_time(
    box: ScriptedHarness,
) -> None:
    box.datasets["a"] = ScriptedDataset(files("one.bin", modified=None))
    box.sync()
    with box.index() as index:
        row = index.resolve("box:a")
    assert row.upstream_time is None
    with run_catalogue(box.store) as site:
        shown = site.page(f"/dataset/box:a@{row.label}")
        listed = site.page("/dataset/box:a")
        versions = site.api("/datasets/box:a/versions")["versions"]
    [recorded] = re.findall(r"<dt>Recorded here</dt><dd>(.*?)</dd>", shown)
    assert visible_text(recorded).startswith(row.recorded_at[:10])
    assert f'datetime="{row.recorded_at}"' in listed
    assert [(one["time"], one["observed_at"]) for one in versions] == [(None, row.recorded_at)]


def test_a_draft_with_the_files_of_the_published_version_is_not_called_changed(
    box: ScriptedHarness,
) -> None:
    box.datasets["a"] = ScriptedDataset(
        files("one.bin"), published_versions={"1.0": files("one.bin")}
    )
    for is_changed in (False, True):
        if is_changed:
            box.datasets["a"].files |= files("two.bin")
        box.sync()
        with box.index() as index:
            kinds = [one.kind for one in index.versions("box:a")]
        assert kinds == ["published", *["observed"] * (1 + is_changed)]
        with run_catalogue(box.store) as site:
            assert ("has changed since then" in site.text("/dataset/box:a")) is is_changed


def test_a_copy_in_another_bucket_is_listed_as_such(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    weak, strong = f"{AIND}:{BEHAVIOR}", f"{BENCHMARK}:{MEAREC}"
    buckets.put(f"{BEHAVIOR}/same.bin", b"the same in both buckets")
    buckets.put(f"{MEAREC}/same.bin", b"the same in both buckets", bucket=buckets.benchmark)
    bucket_harness.sync(weak, strong)
    with run_catalogue(bucket_harness.store) as site:
        label = site.api(f"/datasets/{weak}")["version"]
        page = site.page(f"/dataset/{weak}@{label}")
        other = site.api(f"/datasets/{strong}")["version"]
        other_page = site.page(f"/dataset/{strong}@{other}")
    [checksums] = re.findall(r'<section id="checksums">.*?</section>', page, flags=re.DOTALL)
    [own] = re.findall(r"<li><strong>1</strong> file, (.*?)</li>", checksums)
    [(copy, where)] = re.findall(r'<li>(1 file [^<]*<a href="([^"]+)">.*?)</li>', checksums)
    assert where == f"/dataset/{strong}"
    assert own.startswith(FILTERS["retention_short"]("mutable-bucket"))
    assert FILTERS["retention_short"]("versioned-bucket") in copy
    assert f"/dataset/{weak}" not in other_page.partition('<section id="checksums">')[2]
