"""Keys and copy buttons: an order, a focus that is seen, commands that work when pasted."""

from typing import Any
from urllib.parse import urlsplit

import pytest

from support.browser_page_kinds import EVERY_KIND
from support.browser_session import PLAIN_NAME, BrowserSession, SessionFactory
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


PAGES = (f"/dataset/{RELEASED}", f"/dataset/{RELEASED}@latest")


@pytest.mark.parametrize("path", PAGES)
def test_each_button_copies_what_stands_beside_it(
    start_session: SessionFactory, site: BrowserSite, path: str
) -> None:
    walk = start_session(site)
    walk.open(path)
    walk.unfold()
    boxes = walk.page.locator(".copy")
    assert boxes.count() >= 6
    names = set()
    for box in boxes.all():
        button = box.get_by_role("button")
        names.add(button.get_attribute("aria-label"))
        text = box.locator("pre").text_content()
        button.click()
        box.get_by_text("Copied").wait_for()
        assert walk.page.evaluate("navigator.clipboard.readText()") == text
    assert len(names) == boxes.count(), "button labels are not distinct"


def test_without_clipboard_the_text_is_selected_and_announced(
    start_session: SessionFactory, site: BrowserSite
) -> None:
    walk = start_session(site)
    # as in a lab, over plain HTTP: browsers give a page no clipboard there
    walk.allowed_errors.append("Cross-Origin-Opener-Policy header has been ignored")
    walk.address = f"http://{PLAIN_NAME}:{urlsplit(site.address).port}"
    walk.open(PAGES[0])
    assert walk.page.evaluate("typeof navigator.clipboard") == "undefined"
    box = walk.page.locator(".copy").first
    box.get_by_role("button").click()
    box.get_by_text("Selected").wait_for()
    chosen = walk.page.evaluate("getSelection().toString()")
    assert chosen.strip() == box.locator("pre").inner_text().strip() != ""


def test_without_scripts_no_button_promises_to_copy(
    start_session: SessionFactory, site: BrowserSite
) -> None:
    walk = start_session(site, java_script_enabled=False)
    walk.open(PAGES[0])
    assert walk.page.locator(".copy pre").count() >= 6
    assert walk.page.locator("main").get_by_role("button", name="Copy").count() == 0
