"""What fails is shown in the catalogue, without what an operator alone should read."""

from __future__ import annotations

from typing import Any

from neuromirror.crawl import FailureLog, open_recorder
from support.running_catalogue import RunningCatalogue, run_catalogue
from support.scripted_source import ScriptedDataset, ScriptedHarness, ScriptedSource, files


def failures(site: RunningCatalogue) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = site.api("/mirrors")["failures"]
    return found


def test_failures_are_on_the_status_page_and_in_the_api_until_they_are_over(
    box: ScriptedHarness, source: ScriptedSource
) -> None:
    source.scripted_datasets["one"] = ScriptedDataset(files("a"))
    box.sync()
    store = box.store
    message = "cannot write to /srv/secret"
    with open_recorder(store, store.index_path) as recorder, run_catalogue(store) as site:
        log = FailureLog(recorder)
        assert failures(site) == []
        log.record_failure("list", message, "box")
        log.record_failure("backup", message)
        found = failures(site)
        assert [(one["task"], one["mirror"], one["dataset"]) for one in found] == [
            ("backup", "", None),
            ("list", "box", None),
        ]
        page = site.text("/mirrors")
        assert "list box since" in page
        assert "No problems" not in page
        assert "/srv/secret" not in page
        log.record_success("list", "box")
        log.record_success("backup")
        assert failures(site) == []
        assert "No problems" in site.text("/mirrors")
