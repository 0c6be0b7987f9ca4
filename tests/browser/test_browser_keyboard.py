"""The keyboard: a way past the header, an order, a focus that is seen, what folds and unfolds."""

from __future__ import annotations

import pytest

from support.browser_page_kinds import EVERY_KIND
from support.browser_session import BrowserSession, SessionFactory
from support.browser_site import RELEASED, BrowserSite

_ORDER = """() => [...document.querySelectorAll(
        'a[href], button, input, select, textarea, summary, [tabindex]')]
    .filter(one => one.tabIndex >= 0 && one.checkVisibility({visibilityProperty: true})
        && !(one.type === 'radio' && !one.checked))
    .length"""


def test_the_first_tab_leads_past_the_header(session: BrowserSession) -> None:
    session.open(f"/dataset/{RELEASED}")
    session.typed("Tab")
    first = session.focused()
    assert first["seen"]
    assert "skip" in first["name"].lower()
    session.typed("Enter", "Tab")
    assert session.page.evaluate("document.querySelector('main').contains(document.activeElement)")


@pytest.mark.parametrize("name", ["front", "dataset", "version", "diff", "volume", "unknown"])
def test_all_that_can_be_done_is_reached_in_order_and_seen(
    start_session: SessionFactory, site: BrowserSite, name: str
) -> None:
    (kind,) = [one for one in EVERY_KIND if one.name == name]
    walk = start_session(site)
    page = walk.open(kind.path(site), kind.status)
    assert page.locator('[tabindex]:not([tabindex="0"]):not([tabindex="-1"])').count() == 0
    expected, before, reached = page.evaluate(_ORDER), -1, 0
    page.evaluate("document.querySelectorAll('*').forEach((one, at) => { one.at = at; })")
    while (at := _next(walk)) > before:
        assert walk.focused()["seen"], walk.focused()
        before, reached = at, reached + 1
    assert reached >= expected > 5


def _next(walk: BrowserSession) -> int:
    """Where in the page the next Tab leads; -1 when it leads out of it."""
    walk.typed("Tab")
    at: int = walk.page.evaluate(
        "document.activeElement === document.body ? -1 : document.activeElement.at"
    )
    return at


def test_what_is_folded_is_opened_and_closed_by_keys(session: BrowserSession) -> None:
    session.open(f"/dataset/{RELEASED}")
    folded = session.page.locator("details").first
    session.tab_to(folded.locator("summary"))
    for key, is_open in (("Enter", True), ("Enter", False), ("Space", True)):
        session.typed(key)
        assert folded.evaluate("one => one.open") is is_open


def test_a_copy_button_works_with_enter_and_announces_it(
    start_session: SessionFactory, site: BrowserSite
) -> None:
    walk = start_session(site, permissions=["clipboard-read", "clipboard-write"])
    walk.open(f"/dataset/{RELEASED}")
    walk.tab_to(walk.page.get_by_role("button", name="Copy: DataLad commands"))
    walk.typed("Enter")
    walk.page.get_by_text("Copied", exact=True).wait_for()
    assert "datalad clone" in walk.page.evaluate("navigator.clipboard.readText()")
    status = walk.page.evaluate(
        "[...document.querySelectorAll('[aria-live], [role=status]')].map(one => one.textContent)"
    )
    assert any("copied" in one.lower() for one in status), "no status for screen readers"
