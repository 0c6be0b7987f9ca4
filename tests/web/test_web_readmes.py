"""READMEs, the tree of files and downloads on the page of a dataset."""

from __future__ import annotations

import hashlib
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from neuromirror.config.mirror_files import mirror_titles
from neuromirror.web.readmes import render
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, links, run_catalogue, visible_text

NAME = "demo:000001"

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt:alert(1))",
    "[a](java&#115;cript:alert(1))",
    "[a](data:text/html,<script>alert(1)</script>)",
    "[a](vbscript:x)",
    "[a](/dataset/other)",
    '[a](https://example.org/" onmouseover="alert(1))',
    '[a](https://example.org "title\\" onmouseover=\\"alert(1)")',
    "![a](javascript:alert(1))",
    '![<img src=x onerror="alert(1)">](https://example.org/x.png)',
    "<javascript:alert(1)>",
    "[a]: javascript:alert(1)\n\n[a]",
    "```\n</code></pre><script>alert(1)</script>\n```",
    '```html onload=alert(1)"><script>\nx\n```',
    "| <script>alert(1)</script> |\n|---|\n| <b onclick=x> |",
    "<a href='javascript:alert(1)'>x</a>",
    "<!--><script>alert(1)</script>-->",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\u202e[a](https://example.org)\x00\x07",
)
_TAGS = frozenset(
    (
        *("h3", "h4", "h5", "h6", "p", "a", "span", "ul", "ol", "li", "em", "strong", "s", "code"),
        *("pre", "blockquote", "br", "hr", "table", "thead", "tbody", "tr", "th", "td"),
    )
)


class _Collector(HTMLParser):
    """Collects the elements and attributes of a fragment."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


@pytest.mark.parametrize("text", [*HOSTILE, "\n\n".join(HOSTILE)])
@pytest.mark.parametrize("path", ["README.md", "README"])
def test_no_readme_brings_elements_or_links_of_its_own(path: str, text: str) -> None:
    found = _Collector()
    found.feed(str(render(path, text)))
    for tag, attributes in found.elements:
        assert tag in _TAGS, tag
        assert attributes.keys() <= {"href", "rel", "title", "class", "start"}, (tag, attributes)
        address = attributes.get("href")
        assert address is None or address.startswith(("https://", "http://", "mailto:")), address


def test_markdown_is_rendered_below_the_headings_of_the_page() -> None:
    html = str(render("README.md", "# One\n\n## Two\n\n[x](https://example.org) *y* [z](b.nwb)\n"))
    assert "<h3>One</h3>" in html
    assert "<h4>Two</h4>" in html
    assert '<a href="https://example.org" rel="noreferrer nofollow">x</a>' in html
    assert "<em>y</em>" in html
    assert "<span>z</span>" in html


def test_a_table_with_too_many_cells_is_text() -> None:
    """A short row of a table has a cell in each column of the first row."""
    wide = "|" + "a|" * 500 + "\n|" + "-|" * 500 + "\n"
    assert "<table" in render("README.md", wide + "|x\n" * 10)
    assert "<td" not in (found := render("README.md", wide + "|x\n" * 200))
    assert "|x" in found


def test_only_the_start_of_a_long_readme_is_rendered() -> None:
    assert len(render("README.md", "word " * 100_000)) < 80_000


@pytest.mark.usefixtures("isolated_home")  # whose git settings allow requests to loopback
def test_the_page_has_the_readme_and_the_files_before_the_versions(
    demo_harness: MirrorHarness,
) -> None:
    with run_catalogue(demo_harness.store) as site:
        page = site.page(f"/dataset/{NAME}")
        until = time.monotonic() + 60
        while '<div class="readme">' not in page and time.monotonic() < until:
            time.sleep(1)
            page = site.page(f"/dataset/{NAME}?try={time.monotonic()}")
    assert re.search(r'<div class="readme"><h3>Linear track</h3>\s*<p>Demo data.</p>', page)
    order = [page.index(f'id="{one}"') for one in ("readme", "files", "versions", "use", "cite")]
    assert order == sorted(order)
    tree = page[page.index('id="files"') : page.index('id="versions"')]
    assert "sub-101/ 2 files" in visible_text(tree)
    assert "<details><summary>" in tree


def test_archives_have_their_titles(demo_harness: MirrorHarness) -> None:
    mirrors = demo_harness.mirrors
    with run_catalogue(demo_harness.store, "--mirrors", str(mirrors)) as site:
        for path in ("/", "/mirrors", "/changes", f"/dataset/{NAME}", f"/dataset/{NAME}@latest"):
            assert "Demo archive (simulated)" in site.text(path), path


def test_an_unreadable_mirror_file_has_no_title(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text('title = "Good"\nunknown = 1\n')
    (tmp_path / "bad.toml").write_text("title = ")
    (tmp_path / "odd.toml").write_bytes(b"\xff")
    (tmp_path / "number.toml").write_text("title = 5\n")
    found = mirror_titles(tmp_path)
    assert found["good"] == "Good"
    assert found["dandi"] == "DANDI Archive"
    assert not found.keys() & {"bad", "odd", "number"}
    assert mirror_titles(tmp_path / "none")["dandi"] == "DANDI Archive"


def test_a_catalogue_without_requests_to_archives_names_the_readme(
    demo_harness: MirrorHarness,
) -> None:
    with run_catalogue(demo_harness.store, "--no-cutouts") as site:
        page = site.page(f"/dataset/{NAME}")
        assert '<div class="readme">' not in page
        assert 'id="readme"' in page


def test_each_file_of_the_tree_has_a_download(site: RunningCatalogue) -> None:
    page = site.page(f"/dataset/{NAME}")
    addresses = [one for one in links(page) if one.startswith("/download/")]
    files = {one["path"]: one for one in site.api(f"/datasets/{NAME}@latest/files")["files"]}
    assert len(addresses) == len(files)
    for address in addresses:
        path = address.partition("path=")[2]
        content = site.get(address).content
        assert hashlib.sha256(content).hexdigest() == files[path]["digests"]["sha256"]
    assert site.get(f"/download/{NAME}@latest?path=none").status_code == 404


def test_a_folder_does_not_repeat_the_page_of_its_version(site: RunningCatalogue) -> None:
    whole = site.page(f"/dataset/{NAME}@latest")
    folder = site.page(f"/dataset/{NAME}@latest?under=sub-101")
    for section in ("use", "cite", "properties", "checksums"):
        assert f'id="{section}"' in whole
        assert f'id="{section}"' not in folder
    assert 'id="files"' in folder
