"""The keyboard: a way past the header, an order, a focus that is seen, what folds and unfolds."""

from __future__ import annotations

from typing import Any

import pytest

from support.browser_page_kinds import EVERY_KIND
from support.browser_session import BrowserSession
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
    session: BrowserSession, site: BrowserSite, name: str
) -> None:
    (kind,) = [one for one in EVERY_KIND if one.name == name]
    page = session.open(kind.path(site), kind.status)
    assert page.locator('[tabindex]:not([tabindex="0"]):not([tabindex="-1"])').count() == 0
    expected, before, reached = page.evaluate(_ORDER), -1, 0
    while (found := _next(session))["at"] > before:
        assert found["seen"], found
        before, reached = found["at"], reached + 1
    assert reached >= expected > 5


def _next(session: BrowserSession) -> dict[str, Any]:
    """Return the element that the next Tab leads to."""
    session.typed("Tab")
    return session.focused()


def test_what_is_folded_is_opened_and_closed_by_keys(session: BrowserSession) -> None:
    session.open(f"/dataset/{RELEASED}")
    folded = session.page.locator("details").first
    session.tab_to(folded.locator("summary"))
    for key, is_open in (("Enter", True), ("Enter", False), ("Space", True)):
        session.typed(key)
        assert folded.evaluate("one => one.open") is is_open


def test_a_copy_button_works_with_enter_and_announces_it(session: BrowserSession) -> None:
    session.open(f"/dataset/{RELEASED}")
    session.page.evaluate("navigator.clipboard.writeText('')")
    session.tab_to(session.page.get_by_role("button", name="Copy: DataLad commands"))
    session.typed("Enter")
    session.page.get_by_text("Copied", exact=True).wait_for()
    assert "datalad clone" in session.page.evaluate("navigator.clipboard.readText()")
    status = session.page.evaluate(
        "[...document.querySelectorAll('[aria-live], [role=status]')].map(one => one.textContent)"
    )
    assert any("copied" in one.lower() for one in status), "no status for screen readers"
