"""Wherever a dataset is listed, label and figures are of the version that its name means."""

from __future__ import annotations

import json
from typing import Any

from support.command_shell import Shell
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue

NAME = "demo:000002"
"""Has published versions, and a draft with other files."""

_FIGURES = ("version", "time", "files", "bytes", "license", "doi", "title")


def expected_figures(site: RunningCatalogue) -> dict[str, Any]:
    version = site.api(f"/datasets/{NAME}@latest")
    draft = site.api(f"/datasets/{NAME}@draft")
    assert version["kind"] == "published"
    assert (version["files"], version["bytes"]) != (draft["files"], draft["bytes"])
    return {name: version[name] for name in _FIGURES}


def test_the_api_lists_the_figures_of_the_version_that_it_names(site: RunningCatalogue) -> None:
    expected = expected_figures(site)
    [listed] = [one for one in site.api("/datasets")["datasets"] if one["name"] == NAME]
    whole = site.api(f"/datasets/{NAME}")
    [found] = [
        one["dataset"]
        for one in site.api("/search?q=000002")["found"]
        if one["dataset"]["name"] == NAME
    ]
    for document in (listed, whole, found):
        assert {name: document[name] for name in _FIGURES} == expected
        assert document["published"] == expected["version"] != document["newest"]


def test_the_command_line_lists_the_same_figures(
    site: RunningCatalogue, demo_harness: MirrorHarness
) -> None:
    expected = expected_figures(site)
    shell = Shell(demo_harness.mirrors, demo_harness.store.root)
    records = map(json.loads, shell.run("list", "--json").lines)
    [record] = [one for one in records if one["dataset"] == NAME]
    for name in ("version", "files", "bytes", "title"):
        assert record[name] == expected[name]
