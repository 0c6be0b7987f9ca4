"""Datasette's own pages below /index: they are not ours, and have to be of use all the same."""

from __future__ import annotations

import pytest

from support.browser_session import BrowserSession


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/index", "datasets"),
        ("/index/datasets", "local_id"),
        ("/index/newest_versions", "demo"),
        ("/index?sql=select+count(*)+as+found+from+versions", "found"),
    ],
)
def test_table_page_loads_nothing_external(session: BrowserSession, path: str, text: str) -> None:
    # what of its own scripts and styles is inline is not run under the site's policy
    session.allowed_errors += ["Content Security Policy", "policy: "]
    session.open(path)
    assert text in session.text


def test_a_table_leads_back_to_the_catalogue(session: BrowserSession) -> None:
    session.allowed_errors += ["Content Security Policy", "policy: "]
    session.open("/index/datasets")
    session.follow(session.page.locator('a[href="/"]').first)
    assert session.heading


def test_a_question_is_typed_and_answered(session: BrowserSession) -> None:
    session.allowed_errors += ["Content Security Policy", "policy: "]
    page = session.open("/index?sql=select+1")
    page.locator("textarea[name=sql]").fill("select count(*) as found from datasets")
    session.follow(page.locator("input[type=submit][value='Run SQL']"))
    assert int(page.locator("table.rows-and-columns td").inner_text()) > 20
