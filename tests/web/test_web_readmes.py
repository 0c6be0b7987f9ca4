"""READMEs, the tree of files and downloads on the page of a dataset."""

from html.parser import HTMLParser

import pytest

from neuromirror.web.readmes import render

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
