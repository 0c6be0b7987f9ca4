"""Datasette's own pages below /index: they are not ours, and have to be of use all the same."""

from __future__ import annotations

import pytest
from browser_walk import Walk


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/index", "datasets"),
        ("/index/datasets", "local_id"),
        ("/index/newest_versions", "demo"),
        ("/index?sql=select+count(*)+as+found+from+versions", "found"),
    ],
)
def test_a_table_is_shown_and_asks_nobody_else(walk: Walk, path: str, words: str) -> None:
    # what of its own scripts and styles is inline is not run under the site's policy
    walk.forgiven += ["Content Security Policy", "policy: "]
    walk.open(path)
    assert words in walk.text


def test_a_table_leads_back_to_the_catalogue(walk: Walk) -> None:
    walk.forgiven += ["Content Security Policy", "policy: "]
    walk.open("/index/datasets")
    walk.follow(walk.page.locator('a[href="/"]').first)
    assert walk.heading


def test_a_question_is_typed_and_answered(walk: Walk) -> None:
    walk.forgiven += ["Content Security Policy", "policy: "]
    page = walk.open("/index?sql=select+1")
    page.locator("textarea[name=sql]").fill("select count(*) as found from datasets")
    walk.follow(page.locator("input[type=submit][value='Run SQL']"))
    assert int(page.locator("table.rows-and-columns td").inner_text()) > 20
