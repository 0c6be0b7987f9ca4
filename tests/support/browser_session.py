"""Drive a browser: open pages, click, type, and record errors."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Locator,
    Page,
    Playwright,
    Request,
    Response,
    ViewportSize,
    sync_playwright,
)

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""The first has the same engine without windows, and takes a quarter of the time for a page."""

PLAIN_NAME = "catalogue.test"
"""A name of this machine that the browser takes for another's, with less trust than loopback."""

_FLAGS = (
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # # no other host name resolves, for any part of the browser
    f"--host-resolver-rules=MAP {PLAIN_NAME} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_NO_OPTIMIZER = "--js-flags=--no-opt --no-maglev"
"""Short scripts finish before they are compiled a second and third time."""

_TIMEOUT_MS = 60_000
"""Milliseconds until something that does not come is a failure."""

_PERMISSIONS = ["clipboard-read", "clipboard-write"]

_REPORT_VIOLATIONS = """
document.addEventListener('securitypolicyviolation', event => console.error(
    `policy: ${event.effectiveDirective} forbids ${event.blockedURI || event.sample}`));
"""

PHONE: ViewportSize = {"width": 390, "height": 844}
DESKTOP: ViewportSize = {"width": 1200, "height": 800}
PHONE_DEVICE = {"viewport": PHONE, "is_mobile": True, "has_touch": True}
"""A phone, as settings of a session."""


def in_ci() -> bool:
    """Return whether a missing browser is an error, according to ``scripts/environment.py``."""
    return os.environ.get("CI", "") not in ("", "false")


def found_browser() -> str:
    """Return the path of the browser; without one, fail in CI and skip elsewhere."""
    for name in PROGRAMS:
        if program := shutil.which(name):
            return program
    missing = (
        f"no browser: none of {', '.join(PROGRAMS)} is on PATH (Debian: chromium-headless-shell)"
    )
    if in_ci():
        pytest.fail(missing)
    pytest.skip(missing)


@contextmanager
def launched(driver: Playwright, program: str, home: Path, *flags: str) -> Iterator[Browser]:
    """Start the browser with a new profile in a temporary home, and stop it after the block."""
    inherited = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    browser = driver.chromium.launch(
        executable_path=program,
        headless=True,
        chromium_sandbox=os.geteuid() != 0,
        args=[*_FLAGS, *flags],
        env={**inherited, "HOME": str(home), "TZ": "UTC"},
    )
    try:
        yield browser
    finally:
        browser.close()


@dataclass
class BrowserSession:
    """A browser with one site.

    ``wrong`` lists unexpected errors; ``forgiven`` are parts of browser
    messages that are ignored; ``expected`` is the status of pages.
    """

    context: BrowserContext
    address: str
    errors: list[str] = field(default_factory=list)
    allowed_errors: list[str] = field(default_factory=list)
    expected: int = 200
    _page: Page | None = None
    _failed_urls: set[str] = field(default_factory=set)

    def restart(
        self,
        address: str,
        *,
        viewport: ViewportSize,
        color_scheme: Literal["light", "dark"] = "light",
        reduced_motion: Literal["reduce", "no-preference"] = "no-preference",
    ) -> None:
        """Look at a site as a new visitor with these settings, on the same page."""
        self.address, self.allowed_errors = address, []
        self._failed_urls.clear()
        self.page.set_viewport_size(viewport)
        self.page.emulate_media(color_scheme=color_scheme, reduced_motion=reduced_motion)

    @property
    def page(self) -> Page:
        """The current page."""
        if self._page is None:
            self._page = self.context.new_page()
            self._page.set_default_timeout(_TIMEOUT_MS)
            self._page.add_init_script(_REPORT_VIOLATIONS)
            self._page.on("console", self._on_console)
            self._page.on("dialog", self._on_dialog)
            self._page.on("pageerror", lambda error: self.errors.append(f"error: {error}"))
            self._page.on("request", self._on_request)
            self._page.on("response", self._on_response)
            self._page.on("requestfailed", self._on_request_failed)
        return self._page

    @property
    def path(self) -> str:
        """The path of the current page, without the URL of the site."""
        return self.page.url.removeprefix(self.address)

    @property
    def text(self) -> str:
        """The visible text of the page."""
        return self.page.locator("body").inner_text()

    @property
    def heading(self) -> str:
        """The page's first heading."""
        return self.page.locator("h1").first.inner_text()

    def open(self, path: str, status: int = 200) -> Page:
        """Open the page at a path and check its status."""
        self.expected = status
        reply = self.page.goto(self.address + path)
        assert reply is not None
        assert reply.status == status, (path, reply.status)
        return self.page

    def follow(self, link: Locator) -> None:
        """Click on a link to another page."""
        with self.page.expect_navigation():
            link.click()

    def unfold(self) -> None:
        """Open all folded sections."""
        self.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")

    def typed(self, *keys: str) -> None:
        """Press keys."""
        for key in keys:
            self.page.keyboard.press(key)

    def focused(self) -> dict[str, Any]:
        """Return the focused element: ``tag``, ``name``, position ``at``, and if it is ``seen``."""
        found: dict[str, Any] = self.page.evaluate(_FOCUSED)
        return found

    def elements_beyond_width(self) -> list[str]:
        """Return elements that do not fit the width of the page."""
        found, is_wide = self.page.evaluate(_BEYOND_WIDTH)
        return [f"{self.path}: {one}" for one in found] + [self.path] * is_wide

    def tab_to(self, target: Locator, most: int = 200) -> None:
        """Press Tab until this element has the focus, which must be visible at each step."""
        target.evaluate("one => { window.target = one; }")
        for _ in range(most):
            self.typed("Tab")
            found = self.focused()
            assert found["seen"], f"{self.path}: {found}"
            if found["is_target"]:
                return
        raise AssertionError(f"{self.path}: {most} tabs do not lead to {target}")

    def enter(self) -> None:
        """Press Enter on a link to another page."""
        with self.page.expect_navigation():
            self.typed("Enter")

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type != "error" or any(error in message.text for error in self.allowed_errors):
            return
        if (
            "Failed to load resource" in message.text
            and message.location["url"] in self._failed_urls
        ):
            return
        self.errors.append(f"console at {message.location}: {message.text}")

    def _on_dialog(self, dialog: Dialog) -> None:
        self.errors.append(f"{self.path}: dialog {dialog.message}")
        dialog.dismiss()

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.address}/", "data:")):
            self.errors.append(f"{self.path} asks for {request.url}")

    def _on_response(self, response: Response) -> None:
        if response.status == self.expected and response.request.is_navigation_request():
            self._failed_urls.add(response.url)
        elif response.status >= 400:
            self.errors.append(f"{response.url}: {response.status}")

    def _on_request_failed(self, request: Request) -> None:
        # # the response of a page that was left before it was complete
        if request.failure != "net::ERR_ABORTED":
            self.errors.append(f"{request.url}: {request.failure}")


SessionFactory = Callable[..., BrowserSession]
"""Starts a walk at a site, with settings of the browser."""


class SharedBrowser:
    """A browser with one page per kind of device, since each new page takes a second."""

    def __init__(self, program: str, home: Path) -> None:
        self._stack = ExitStack()
        self.driver = self._stack.enter_context(sync_playwright())
        self.browser = self._stack.enter_context(
            launched(self.driver, program, home, _NO_OPTIMIZER)
        )
        self._sessions: dict[str, BrowserSession] = {}

    def session(
        self,
        address: str,
        *,
        viewport: ViewportSize = DESKTOP,
        is_mobile: bool = False,
        has_touch: bool = False,
        java_script_enabled: bool = True,
        script: str = "",
        **media: Any,
    ) -> BrowserSession:
        """Return the session of such a device, restarted; the script runs first on each page."""
        device = {
            "is_mobile": is_mobile,
            "has_touch": has_touch,
            "java_script_enabled": java_script_enabled,
        }
        name = repr((device, script))
        if name not in self._sessions:
            context = self.browser.new_context(**device, permissions=_PERMISSIONS)
            if script:
                context.add_init_script(script)
            self._sessions[name] = BrowserSession(context, address)
        self._sessions[name].restart(address, viewport=viewport, **media)
        return self._sessions[name]

    def take_errors(self) -> list[str]:
        """Return the errors of all sessions, and forget them."""
        errors = [error for one in self._sessions.values() for error in one.errors]
        for session in self._sessions.values():
            session.errors.clear()
        return errors

    def close(self) -> None:
        """Stop the browser and its driver."""
        self._stack.close()


_FOCUSED = """() => {
    const one = document.activeElement;
    if (!one || one === document.body) return {tag: 'body', name: '', seen: true, at: -1};
    const style = getComputedStyle(one), box = one.getBoundingClientRect();
    const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
    const inside = box.width > 1 && box.height > 1 && box.right > 0 && box.bottom > 0
        && box.left < innerWidth && box.top < innerHeight;
    const words = one.getAttribute('aria-label') || one.textContent || one.name || '';
    return {tag: one.tagName.toLowerCase(), name: words.trim().replace(/\\s+/g, ' '),
            seen: inside && (outlined || style.boxShadow !== 'none'),
            is_target: one === window.target,
            at: [...document.querySelectorAll('*')].indexOf(one)};
}"""

_BEYOND_WIDTH = """() => {
    // a phone shows a page that is too wide as a whole, and smaller: innerWidth is as wide then
    const wide = document.documentElement.clientWidth;
    const clips = one => ['auto', 'scroll', 'hidden'].includes(getComputedStyle(one).overflowX);
    const found = [...document.querySelectorAll('body *')].filter(one => {
        const box = one.getBoundingClientRect();
        if (!box.width || !box.height || box.right <= wide + 1) return false;
        for (let up = one.parentElement; up; up = up.parentElement) if (clips(up)) return false;
        return true;
    });
    return [found.slice(0, 3).map(one => one.outerHTML.slice(0, 200)),
            document.documentElement.scrollWidth > wide];
}"""
"""Elements that exceed the right edge outside of scrollable boxes, and whether the page does."""
