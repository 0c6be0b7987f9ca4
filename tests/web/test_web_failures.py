"""What fails is shown in the catalogue, without what an operator alone should read."""

from __future__ import annotations

from typing import Any

from scripted import Box, Scripted, Thing, files
from web_site import Running, running

from neuromirror.crawl import FailureLog, recording


def failures(site: Running) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = site.api("/mirrors")["failures"]
    return found


def test_failures_are_on_the_status_page_and_in_the_api_until_they_are_over(
    box: Box, source: Scripted
) -> None:
    source.things["one"] = Thing(files("a"))
    box.sync()
    store = box.store
    message = "cannot write to /srv/secret"
    with recording(store, store.index_path) as recorder, running(store) as site:
        log = FailureLog(recorder)
        assert failures(site) == []
        log.failed("list", message, "box")
        log.failed("backup", message)
        found = failures(site)
        assert [(one["task"], one["mirror"], one["dataset"]) for one in found] == [
            ("backup", "", None),
            ("list", "box", None),
        ]
        page = site.text("/mirrors")
        assert "list box since" in page
        assert "Nothing is amiss" not in page
        assert "/srv/secret" not in page
        log.succeeded("list", "box")
        log.succeeded("backup")
        assert failures(site) == []
        assert "Nothing is amiss" in site.text("/mirrors")
