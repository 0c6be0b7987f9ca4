"""Figures of the benchmark ``web`` beside the time of pages: the first paint, the search tables."""

from __future__ import annotations

import shutil
import sqlite3
import statistics
from pathlib import Path
from typing import Any, Final

PROGRAMS: Final = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
SCREENS: Final = {"phone": (390, 844), "desktop": (1280, 800)}
LATENCY_MS: Final = 150
DOWN_KBITS: Final = 1600
UP_KBITS: Final = 750
"""The network that Lighthouse simulates for phones ("slow 4G")."""
_RUNS: Final = 5
_SETTLE_MS: Final = 1000
"""Milliseconds after the event ``load`` in which a larger content may still be painted."""
_OBSERVE: Final = """
window.paints = [];
new PerformanceObserver(list => window.paints.push(...list.getEntries().map(one => one.startTime)))
    .observe({type: 'largest-contentful-paint', buffered: true});
"""
_SEARCH_TABLES: Final = ("dataset_text", "facets", "listed_datasets", "data_types", "stale_text")
"""Prefixes of the names of tables and indexes that only searches for metadata read."""


def largest_paints(url: str) -> dict[str, int]:
    """Return the median time of the largest contentful paint in milliseconds, by screen.

    Headless Chromium opens the page with an empty cache and a throttled network.
    """
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        return {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        found = {
            screen: round(
                statistics.median(_largest_paint(browser, url, size) for _ in range(_RUNS))
            )
            for screen, size in SCREENS.items()
        }
        browser.close()
    return found


def _largest_paint(browser: Any, url: str, size: tuple[int, int]) -> float:
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    conditions = {
        "offline": False,
        "latency": LATENCY_MS,
        "downloadThroughput": DOWN_KBITS * 1000 / 8,
        "uploadThroughput": UP_KBITS * 1000 / 8,
    }
    session.send("Network.emulateNetworkConditions", conditions)
    page.add_init_script(_OBSERVE)
    page.goto(url, wait_until="load")
    page.wait_for_timeout(_SETTLE_MS)
    paints = page.evaluate("window.paints")
    context.close()
    return float(max(paints))


def search_bytes(index: Path) -> tuple[int, int]:
    """Return the bytes of the tables that only searches for metadata read, and of the whole index.

    SQLite's table ``dbstat`` must be available.
    """
    connection = sqlite3.connect(f"file:{index}?mode=ro", uri=True)
    try:
        sizes = connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name").fetchall()
    finally:
        connection.close()
    search = sum(size for name, size in sizes if name.startswith(_SEARCH_TABLES))
    return search, sum(size for _, size in sizes)
