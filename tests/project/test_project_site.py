"""The documentation as a site: built without a warning, and every link leads somewhere."""

import fcntl
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from mkdocs.utils.yaml import yaml_load

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]
    if ".ipynb_checkpoints" not in path.parts
)
FETCHED = {
    ("audio", "src"),
    ("embed", "src"),
    ("form", "action"),
    ("iframe", "src"),
    ("img", "src"),
    ("img", "srcset"),
    ("input", "src"),
    ("link", "href"),
    ("object", "data"),
    ("script", "src"),
    ("source", "src"),
    ("source", "srcset"),
    ("use", "href"),
    ("video", "poster"),
    ("video", "src"),
}
"""Attributes whose URLs a browser requests automatically; those of ``a`` are for a person."""
_ELSEWHERE = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import\s+['\"](?:https?:)?//")


@dataclass
class Page(HTMLParser):
    """Links, resources and anchors of a built page."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)
    components: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        for name, given in attrs:
            value = given or ""
            if name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value)
            elif name == "class":
                self.classes |= set(value.split())
            elif name == "style":
                self.code.append(value)
            elif name == "data-md-component":
                self.components.add(value)
            elif (tag, name) == ("a", "href"):
                self.links.append(value)
            elif (tag, name) in FETCHED:
                self.fetched.append(value)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style"):
            self.code.append(data)


@cache
def parsed(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text("utf-8"))
    return page


def build(root: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Builds the site of a checkout; whatever would ask the network gets no answer.

    Not with ``--quiet``: then warnings are not counted, and ``--strict`` lets them pass.
    """
    dead_proxy = "http://127.0.0.1:9"
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", target],
        cwd=root,
        env={
            **os.environ,
            "NO_MKDOCS_2_WARNING": "1",
            "http_proxy": dead_proxy,
            "https_proxy": dead_proxy,
            "all_proxy": dead_proxy,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module", name="site")
def fixture_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # shared by the workers of one run: the first builds for all
    target = base / "site"
    with (base / "site.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not target.exists():
            built = build(ROOT, base / "site.new")
            assert built.returncode == 0, built.stdout + built.stderr
            (base / "site.new").rename(target)
    return target


def html(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def leaves(nav: Any) -> Iterator[str]:
    """The pages of a menu, in order."""
    if isinstance(nav, str):
        yield nav
    else:
        for one in nav.values() if isinstance(nav, dict) else nav:
            yield from leaves(one)


def test_every_page_is_in_the_menu_once_and_in_the_site(site: Path) -> None:
    with (ROOT / "mkdocs.yml").open("rb") as file:
        menu = list(leaves(yaml_load(file)["nav"]))
    assert sorted(set(menu)) == sorted(menu)
    assert set(menu) - set(PAGES) == {"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}
    assert set(PAGES) - set(menu) == set()
    for name in menu:
        built = re.sub(r"(README)?\.(md|ipynb)$", lambda one: "index" if one[1] else "", name)
        assert (site / f"{built}.html").is_file(), name


def test_every_link_and_anchor_leads_somewhere(site: Path) -> None:
    dead, seen = [], 0
    for path in html(site):
        if path.name == "404.html":
            continue
        for link in parsed(path).links:
            address, anchor = urldefrag(link)
            if urlsplit(address).scheme:
                continue
            seen += 1
            target = (path.parent / unquote(address)).resolve() if address else path
            if target.is_dir():
                target /= "index.html"
            is_there = target.is_file()
            if is_there and anchor and target.suffix == ".html":
                is_there = unquote(anchor) in parsed(target).ids
            if not is_there:
                dead.append(f"{path.relative_to(site)}: {link}")
    assert seen > 1000
    assert dead == []


def test_no_page_asks_another_host(site: Path) -> None:
    assert "prefers-color-scheme: dark" in (site / "index.html").read_text("utf-8")
    found = []
    for path in html(site):
        assert "document.cookie" not in path.read_text("utf-8"), path
        page = parsed(path)
        for address in page.fetched:
            parts = urlsplit(address)
            if parts.netloc or parts.scheme not in ("", "data"):
                found.append(f"{path.relative_to(site)}: {address}")
        for code in page.code:
            if _ELSEWHERE.search(code):
                found.append(f"{path.relative_to(site)}: {code[:200]}")
        # the theme's script loads a program from elsewhere for diagrams, and asks a code host
        assert "mermaid" not in page.classes
        assert "source" not in page.components
    for path in site.rglob("*.css"):
        if _ELSEWHERE.search(path.read_text("utf-8")):
            found.append(str(path.relative_to(site)))
    assert found == []


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    text = (DOCS / "reference" / "api.md").read_text("utf-8")
    packages = re.findall(r"^\| \[`neuromirror\.(\w+)`\]\(python/(\w+)\.md\)", text, re.M)
    assert {"lab", "model", "sources"} <= {package for package, _ in packages}
    assert {page for _, page in packages} == {
        path.stem for path in (DOCS / "reference" / "python").iterdir()
    }
    for package, page in packages:
        built = parsed(site / "reference" / "python" / f"{page}.html")
        names = importlib.import_module(f"neuromirror.{package}").__all__
        assert names
        assert {name for name in names if f"neuromirror.{package}.{name}" not in built.ids} == set()


def test_the_notebook_and_the_formats_can_be_found(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text("utf-8"))
    found = {one["location"].partition("#")[0] for one in index["docs"]}
    assert {"notebooks/pinned-version.html", "reference/mint.html", "howto/pin.html"} <= found
    (copy,) = site.rglob("pinned-version.ipynb")
    assert copy.read_bytes() == (DOCS / "notebooks" / "pinned-version.ipynb").read_bytes()
    assert (site / "reference" / "mirror.schema.json").is_file()
