"""Copy buttons: the copied commands work when pasted."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from support.browser_session import PLAIN_NAME, SessionFactory
from support.browser_site import RELEASED, BrowserSite

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
