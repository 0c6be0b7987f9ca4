"""Errors and hostile content: useful pages, and no script of upstream or of an archive runs."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Error, Page

from support.browser_page_kinds import EVERY_KIND
from support.browser_session import BrowserSession, SessionFactory, SharedBrowser
from support.browser_site import HOSTILE, RELEASED, BrowserSite
from support.gateway_site import mirror_contents, serve_gateway
from support.range_server import RangeServer

_FETCH_LINKS = """() => Promise.all([...document.querySelectorAll('main a[href^="/file/"]')].map(
    async one => {
        const response = await fetch(one.href);
        const page = new DOMParser().parseFromString(await response.text(), 'text/html');
        return [one.href, response.status, page.querySelector('main').textContent];
    }))"""


@pytest.mark.parametrize("name", [one.name for one in EVERY_KIND if one.name.startswith("odd")])
def test_a_script_in_upstreams_text_is_read_and_never_run(
    session: BrowserSession, site: BrowserSite, name: str
) -> None:
    (kind,) = [one for one in EVERY_KIND if one.name == name]
    page = session.open(kind.path(site))
    assert page.title() != "run"
    assert page.locator("main script:not([type]), main img[src='x']").count() == 0
    for never in ("7006652", "\u202e", "\x07"):
        assert never not in session.text
        assert never not in page.title()
    if name != "odd-names":
        assert "<script>document.title" in session.text


def test_each_hostile_name_leads_to_its_file(session: BrowserSession) -> None:
    session.open(f"/dataset/{HOSTILE}@latest")
    found = session.page.evaluate(_FETCH_LINKS)
    assert len(found) >= 20
    for address, status, text in found:
        assert status == 200, address
        assert "sha256" in text.lower() or "md5" in text.lower(), address


def test_from_an_error_one_can_search_on(session: BrowserSession) -> None:
    session.open("/dataset/demo:999999", 404)
    assert session.page.locator("main code").count() == 0
    assert "`" not in session.text
    search = session.page.get_by_role("searchbox").first
    search.fill("ripples")
    with session.page.expect_navigation():
        search.press("Enter")
    assert RELEASED in session.text


def test_an_empty_catalogue_has_no_empty_values(
    start_session: SessionFactory, empty_site: BrowserSite
) -> None:
    walk = start_session(empty_site)
    for path in ("/", "/?q=anything", "/mirrors", "/changes", "/events"):
        walk.open(path)
        assert walk.heading
        assert "None" not in walk.text


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
