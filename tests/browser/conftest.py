"""The site that all browser tests look at, and the browser."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from support.browser_session import DESKTOP, BrowserSession, SessionFactory, found_browser, launched
from support.browser_site import BrowserSite, run_empty_site, run_full_site

_PORTS = (8281, 8282, 8283, 8284, 8280)
"""Where pictures are kept: ports are in addresses, and those in hashes."""


@contextmanager
def _home(folder: Path) -> Iterator[None]:
    """A home and programs as each test has them, for what lives longer than one."""
    settings = '[annex "security"]\n\tallowed-ip-addresses = 127.0.0.1\n'
    (folder / ".gitconfig").write_text(settings)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("GIT_", "DATALAD_", "DANDI_", "NEUROMIRROR_", "AWS_", "XDG_")):
                patch.delenv(name)
        patch.setenv("HOME", str(folder))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield


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
    with _home(folder), run_full_site(folder, demo_files, ports, odd=not kept) as found:
        yield found


@pytest.fixture(scope="session")
def empty_site(
    browser_program: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrowserSite]:
    """The catalogue of a store without datasets."""
    folder = tmp_path_factory.mktemp("browser-empty")
    with _home(folder), run_empty_site(folder) as found:
        yield found


@pytest.fixture(scope="module")
def browser(browser_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The browser; no longer than a module's tests, since an event loop comes with it."""
    folder = tmp_path_factory.mktemp("browser-home")
    with _home(folder), launched(browser_program, folder) as found:
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
