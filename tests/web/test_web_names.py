"""Wherever a dataset is listed, label and figures are of the version that its name means."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

from crawl_place import Place
from web_site import Running, plain

NAME = "demo:000002"
"""Has published versions, and a draft with other files."""

_FIGURES = ("version", "time", "files", "bytes", "license", "doi", "title")


def meant(site: Running) -> dict[str, Any]:
    version = site.api(f"/datasets/{NAME}@latest")
    draft = site.api(f"/datasets/{NAME}@draft")
    assert version["kind"] == "published"
    assert (version["files"], version["bytes"]) != (draft["files"], draft["bytes"])
    return {name: version[name] for name in _FIGURES}


def test_the_api_lists_the_figures_of_the_version_that_it_names(site: Running) -> None:
    wanted = meant(site)
    [listed] = [one for one in site.api("/datasets")["datasets"] if one["name"] == NAME]
    whole = site.api(f"/datasets/{NAME}")
    [found] = [
        one["dataset"]
        for one in site.api("/search?q=000002")["found"]
        if one["dataset"]["name"] == NAME
    ]
    for told in (listed, whole, found):
        assert {name: told[name] for name in _FIGURES} == wanted
        assert told["published"] == wanted["version"] != told["newest"]


def test_pages_list_the_figures_of_the_version_that_they_name(site: Running) -> None:
    wanted = meant(site)
    files = f"{wanted['files']} files"
    rows = re.findall(r"<tr>.*?</tr>", site.page("/?mirror=demo"), flags=re.DOTALL)
    [row] = [plain(one) for one in rows if NAME in one]
    assert f" {wanted['version']} {wanted['files']} " in row
    items = re.findall(r"<li>.*?</li>", site.page("/?q=demo+ripples"), flags=re.DOTALL)
    [item] = [plain(one) for one in items if f"/{NAME}" in one]
    assert f"newest {wanted['version']} · {files}" in item
    facts = plain(site.page(f"/dataset/{NAME}"))
    assert f"Content {files}" in facts


def test_the_command_line_lists_the_same_figures(site: Running, shown: Place) -> None:
    wanted = meant(site)
    command = [sys.executable, "-m", "neuromirror", "--store", str(shown.folder), "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    records = map(json.loads, done.stdout.splitlines())
    [record] = [one for one in records if one["dataset"] == NAME]
    assert {name: record[name] for name in ("version", "files", "bytes", "title")} == {
        name: wanted[name] for name in ("version", "files", "bytes", "title")
    }
