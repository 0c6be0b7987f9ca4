"""What fails is shown in the catalogue, without what an operator alone should read."""

from typing import Any

from neuromirror.crawl import FailureLog, open_recorder
from support.running_catalogue import RunningCatalogue, data_values, run_catalogue
from support.scripted_source import ScriptedDataset, ScriptedHarness, files


def failures(site: RunningCatalogue) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = site.api("/mirrors")["failures"]
    return found


def test_failures_are_on_the_status_page_and_in_the_api_until_they_are_over(
    box: ScriptedHarness,
) -> None:
    box.datasets["one"] = ScriptedDataset(files("a"))
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
        page = site.page("/mirrors")
        summary = [("mirrors", 1), ("attention", 1), ("failures", 2)]
        assert data_values(page) == [*summary, ("failures", 1), ("holds", 0)]
        assert page.count('<li class="card attention">') == 1
        assert 'class="good"' not in page
        for path in ("/mirrors", "/api/v1/mirrors"):
            assert "/srv/secret" not in site.page(path)
        log.record_success("list", "box")
        log.record_success("backup")
        assert failures(site) == []
        assert data_values(site.page("/mirrors")) == [("mirrors", 1)]
        assert 'class="good"' in site.page("/mirrors")
