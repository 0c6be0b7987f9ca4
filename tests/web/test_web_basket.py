"""Versions collected while browsing: each page passes them on in its links and forms."""

import html
import re
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from support.running_catalogue import RunningCatalogue, links, visible_text

ONE, OTHER = "demo:000002@0.240301.1055", "demo:000001@latest"
FILE = "sub-201/sub-201_ses-01_ecephys.nwb"
HOSTILE = '"><script>alert(1)</script>'
PAGES = (
    *("/", "/search", "/search?q=hippocampal", "/search?q=nothing-matches", "/help", "/changes"),
    "/api",
    *("/mirrors", "/events", "/diff", "/diff?dataset=demo:000002", "/find", "/lock"),
    *("/dataset/demo:000002", f"/dataset/{ONE}", f"/dataset/{ONE}?under=sub-201"),
    *(f"/file/{ONE}?path={FILE}", f"/preview/{ONE}?path={FILE}", "/search?archive=demo"),
)
_SHOWS_BASKET = re.compile(
    r"/(#|$|(search|find|diff|events|mirrors|changes|help|lock|api)(#|$)|(dataset|file|volume|preview)/)"
)


def with_basket(path: str, *names: str) -> str:
    added = "&".join(f"add={quote(name)}" for name in names)
    return f"{path}{'&' if '?' in path else '?'}{added}"


def names_in(address: str) -> list[str]:
    return parse_qs(urlsplit(address).query).get("add", [])


def link_to(page: str, label: str) -> str:
    """Return the target of the first link whose text begins with a label."""
    found = re.findall(rf'<a [^>]*href="([^"]+)"[^>]*>{label}', page)
    return html.unescape(found[0])


@pytest.mark.parametrize("path", PAGES)
def test_every_link_and_form_keeps_the_basket(site: RunningCatalogue, path: str) -> None:
    reply = site.get(with_basket(path, ONE, OTHER))
    page = reply.text
    found = [link for link in links(page) if _SHOWS_BASKET.match(link.partition("?")[0])]
    assert len(found) > 8
    for one in found:
        # links that add or remove a version have a basket of their own
        assert names_in(one) == [ONE, OTHER] or "add=" in one, one
    assert sum(names_in(one) == [ONE, OTHER] for one in found) > 8
    for form, action in re.findall(r'(<form [^>]*action="(/[^"]*)".*?</form>)', page, re.DOTALL):
        if _SHOWS_BASKET.match(action):
            kept = re.findall(r'type="hidden" name="add" value="([^"]+)"', form)
            assert [html.unescape(one) for one in kept] == [ONE, OTHER]
    assert "Your list 2 versions" in visible_text(page)
    assert reply.headers["x-robots-tag"] == "noindex, nofollow"
    assert "set-cookie" not in reply.headers


def test_versions_are_added_and_removed_where_they_are_shown(site: RunningCatalogue) -> None:
    results = site.page(f"{link_to(site.page('/'), 'Datasets')}?q=hippocampal&sort=title")
    added = link_to(results, "Add to your list")
    assert urlsplit(added).path == "/search"
    (name,) = names_in(added)
    with_one = site.page(added)
    assert "Your list 1 version" in visible_text(with_one)
    dataset = name.rpartition("@")[0]
    page = site.page(with_basket(f"/dataset/{dataset}", ONE, name))
    assert "In your list" in visible_text(page)
    removed = link_to(page, "Remove")
    assert urlsplit(removed).path == f"/dataset/{dataset}"
    assert names_in(removed) == [ONE]
    assert "Add to your list" in visible_text(site.page(removed))


@pytest.mark.parametrize(
    "name", [HOSTILE, "demo:000002@" + HOSTILE, "nowhere", "a@b@c", "<!--", "https://x/"]
)
def test_hostile_names_are_escaped(site: RunningCatalogue, name: str) -> None:
    for path in ("/", "/search", f"/dataset/{ONE}", "/dataset/demo:999999"):
        page = site.get(with_basket(path, name)).text
        assert "<script>alert" not in page
        assert f"add={quote(name, safe='/:@')}" in page.replace("+", "%20")


def test_a_basket_that_is_too_large_is_not_carried(site: RunningCatalogue) -> None:
    many = [f"demo:{number:06}@1" for number in range(60)]
    page = site.page(with_basket("/help", *many))
    assert names_in(link_to(page, "Datasets")) == []
    site.page(with_basket("/lock", *many), 400)
    assert "add=" not in site.page("/search?q=x&add=" + "y" * 9000).replace("&amp;", "&")


def test_an_unknown_version_can_be_removed_from_the_list(site: RunningCatalogue) -> None:
    for bad in ("demo:999999", "demo:000001@9.9", "nowhere:1", "x"):
        page = site.page(with_basket("/lock", ONE, bad), 404)
        (address,) = [link for link in links(page) if names_in(link) == [ONE]]
        assert "Your list: 1 version" in site.text(address)
    page = site.page(with_basket("/lock", "demo:999999"), 404)
    assert "Your list is empty" in site.text(link_to(page, "your list without"))
