"""The site that all browser tests look at, and the browser."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser_site import Shown, empty, shown
from browser_walk import DESK, Walk, Walker, found_browser, launched
from playwright.sync_api import Browser

_PORTS = (8281, 8282, 8283, 8284, 8280)
"""Where pictures are kept: ports are in addresses, and those in hashes."""


@contextmanager
def _home(folder: Path) -> Iterator[None]:
    """A home and programs as each test has them, for what lives longer than one."""
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
def program() -> str:
    """The browser's program."""
    return found_browser()


@pytest.fixture(scope="session")
def site(
    program: str, tmp_path_factory: pytest.TempPathFactory, demo_files: Path
) -> Iterator[Shown]:
    """The catalogue of a store with something of every kind; nothing odd is in pictures."""
    folder = tmp_path_factory.mktemp("browser-site")
    kept = "PICTURES" in os.environ
    ports = _PORTS if kept else (0, 0, 0, 0, 0)
    with _home(folder), shown(folder, demo_files, ports, odd=not kept) as found:
        yield found


@pytest.fixture(scope="session")
def empty_site(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """The catalogue of a store without datasets."""
    folder = tmp_path_factory.mktemp("browser-empty")
    with _home(folder), empty(folder) as found:
        yield found


@pytest.fixture(scope="module")
def browser(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The browser; no longer than a module's tests, since an event loop comes with it."""
    folder = tmp_path_factory.mktemp("browser-home")
    with _home(folder), launched(program, folder) as found:
        yield found


@pytest.fixture
def walker(browser: Browser) -> Iterator[Walker]:
    """Starts walks; at the end nothing may have gone wrong on any."""
    walks: list[Walk] = []

    def start(at: Shown, **options: Any) -> Walk:
        context = browser.new_context(**{"viewport": DESK, **options})
        walks.append(Walk(context, at.address))
        return walks[-1]

    yield start
    for one in walks:
        one.context.close()
    assert [wrong for one in walks for wrong in one.wrong] == []


@pytest.fixture
def walk(walker: Walker, site: Shown) -> Walk:
    """A person at a desk."""
    return walker(site)


@pytest.fixture(scope="module")
def _kept(browser: Browser, site: Shown) -> Iterator[Walk]:
    context = browser.new_context(viewport=DESK)
    yield Walk(context, site.address)
    context.close()


@pytest.fixture
def looker(_kept: Walk) -> Iterator[Walk]:
    """A person who looks at page after page, in test after test."""
    yield _kept
    wrong, _kept.wrong = _kept.wrong, []
    assert wrong == []
