"""The site that all browser tests look at, and the browser."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.browser_session import BrowserSession, SessionFactory, SharedBrowser, found_browser
from support.browser_site import BrowserSite, run_empty_site, run_full_site
from support.isolated_home import isolate_home

_PORTS = (8281, 8282, 8283, 8284, 8280)
"""Where pictures are kept: ports are in addresses, and those in hashes."""

_BROWSER = pytest.StashKey[SharedBrowser]()


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Stop the browser after the last test of this folder, since an event loop comes with it."""
    try:
        return (yield)
    finally:
        last = nextitem is None or nextitem.path.parent != item.path.parent
        if last and _BROWSER in item.config.stash:
            item.config.stash[_BROWSER].close()
            del item.config.stash[_BROWSER]


@pytest.fixture(scope="module")
def shared_browser(
    browser_program: str, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> SharedBrowser:
    """The browser of all tests of this folder."""
    if _BROWSER not in pytestconfig.stash:
        home = tmp_path_factory.mktemp("browser-home")
        pytestconfig.stash[_BROWSER] = SharedBrowser(browser_program, home)
    return pytestconfig.stash[_BROWSER]


@pytest.fixture
def start_session(shared_browser: SharedBrowser) -> Iterator[SessionFactory]:
    """Starts walks; at the end nothing may have gone wrong on any."""
    shared_browser.take_errors()  # of a test that failed before its end

    def start(at: BrowserSite, **options: Any) -> BrowserSession:
        return shared_browser.session(at.address, **options)

    yield start
    assert shared_browser.take_errors() == []


@pytest.fixture
def session(start_session: SessionFactory, site: BrowserSite) -> BrowserSession:
    """A browser session on a desktop screen."""
    return start_session(site)
