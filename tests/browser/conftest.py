"""The site that all browser tests look at, and the browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from support.browser_session import DESKTOP, BrowserSession, SessionFactory, found_browser, launched
from support.browser_site import BrowserSite, run_empty_site, run_full_site
from support.isolated_home import isolate_home

_PORTS = (8281, 8282, 8283, 8284, 8280)
"""Where pictures are kept: ports are in addresses, and those in hashes."""


@contextmanager
def _started(site: AbstractContextManager[BrowserSite], folder: Path) -> Iterator[BrowserSite]:
    """Start a site with the HOME that each test has; it keeps that one, later fixtures do not."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            isolate_home(folder / "home", patch)
            found = stack.enter_context(site)
        yield found


@pytest.fixture(scope="session")
def browser_program() -> str:
    """The browser's program."""
    return found_browser()


@pytest.fixture(scope="session")
def site(
    browser_program: str, tmp_path_factory: pytest.TempPathFactory, demo_files: Path
) -> Iterator[BrowserSite]:
    """The catalogue of a store with something of every kind; nothing odd is in pictures."""
    folder = tmp_path_factory.mktemp("browser-site")
    kept = "PICTURES" in os.environ
    ports = _PORTS if kept else (0, 0, 0, 0, 0)
    with _started(run_full_site(folder, demo_files, ports, odd=not kept), folder) as found:
        yield found


@pytest.fixture(scope="session")
def empty_site(
    browser_program: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrowserSite]:
    """The catalogue of a store without datasets."""
    folder = tmp_path_factory.mktemp("browser-empty")
    with _started(run_empty_site(folder), folder) as found:
        yield found


@pytest.fixture(scope="module")
def browser(browser_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The browser; no longer than a module's tests, since an event loop comes with it."""
    folder = tmp_path_factory.mktemp("browser-home")
    with launched(browser_program, folder) as found:
        yield found


@pytest.fixture
def start_session(browser: Browser) -> Iterator[SessionFactory]:
    """Starts walks; at the end nothing may have gone wrong on any."""
    walks: list[BrowserSession] = []

    def start(at: BrowserSite, **options: Any) -> BrowserSession:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        walks.append(BrowserSession(context, at.address))
        return walks[-1]

    yield start
    for one in walks:
        one.context.close()
    assert [wrong for one in walks for wrong in one.errors] == []


@pytest.fixture
def session(start_session: SessionFactory, site: BrowserSite) -> BrowserSession:
    """A browser session on a desktop screen."""
    return start_session(site)


@pytest.fixture(scope="module")
def _shared_page(browser: Browser, site: BrowserSite) -> Iterator[BrowserSession]:
    context = browser.new_context(viewport=DESKTOP)
    yield BrowserSession(context, site.address)
    context.close()


@pytest.fixture
def shared_session(_shared_page: BrowserSession) -> Iterator[BrowserSession]:
    """A person who looks at page after page, in test after test."""
    yield _shared_page
    wrong, _shared_page.errors = _shared_page.errors, []
    assert wrong == []
