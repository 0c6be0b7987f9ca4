"""Content of an archive below ``/at/`` cannot act as a page of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Error, Page

from support.browser_session import SharedBrowser
from support.gateway_site import mirror_contents, serve_gateway
from support.range_server import RangeServer

_SCRIPT = b"document.documentElement.dataset.ran = 'yes'; alert(1)"
_CONTENTS = {
    "page.html": b"<script>" + _SCRIPT + b"</script>",
    "image.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>" + _SCRIPT + b"</script></svg>",
    "own.js": _SCRIPT,
    "data.txt": b"<script>" + _SCRIPT + b"</script>",
}
_LOAD = """
address => new Promise(resolve => {
    const script = document.createElement('script');
    script.src = address;
    script.onload = () => resolve('loaded');
    script.onerror = () => resolve('refused');
    document.head.append(script);
})
"""


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of hostile files in a gateway."""
    with RangeServer() as server:
        harness = mirror_contents(tmp_path_factory.mktemp("box"), server, _CONTENTS)
        with serve_gateway(harness) as found:
            yield found


@pytest.fixture(scope="module")
def page(shared_browser: SharedBrowser) -> Iterator[Page]:
    """A page that reports no errors."""
    with shared_browser.browser.new_page() as page:
        yield page


def test_a_page_of_an_archive_runs_no_script(at: str, page: Page) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda one: (dialogs.append(one.message), one.dismiss()))
    for name in ("page.html", "image.svg"):
        with pytest.raises(Error, match="Download is starting"):
            page.goto(f"{at}/{name}")
    page.goto(f"{at}/data.txt")
    assert page.evaluate("document.documentElement.dataset.ran") is None
    assert dialogs == []


def test_no_page_of_the_catalogue_loads_a_script_of_an_archive(at: str, page: Page) -> None:
    parts = urlsplit(at)
    page.goto(f"{parts.scheme}://{parts.netloc}/")
    assert page.evaluate(_LOAD, f"{at}/own.js") == "refused"
    assert page.evaluate(_LOAD, f"{at}/page.html") == "refused"
    assert page.evaluate("document.documentElement.dataset.ran") is None
