"""Hooks of MkDocs for pages and files of the project outside of ``docs/``.

A page may link to files outside of ``docs/`` (``../CONTRIBUTING.md``, ``../scripts/alerts.yml``),
as in a checkout. In the site the project's own pages are at the top, and other files are copied to
``files/``.
"""

from __future__ import annotations

import gc
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
COPIED = "files"
_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")


def _linked(page: Path) -> dict[str, str]:
    """Return the links of a page out of ``docs/``: as written → path below the checkout."""
    found = {}
    for target in _LINK.findall(page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target).resolve()
        if path.is_file() and path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "docs"):
            found[target] = path.relative_to(ROOT).as_posix()
    return found


def _pages() -> list[Path]:
    return [*sorted((ROOT / "docs").rglob("*.md")), *(ROOT / name for name in PAGES)]


def on_pre_build(*, config: Any) -> None:
    """Collect no garbage: griffe's tree of the code stays in memory until the end of the build."""
    gc.disable()


def on_post_build(*, config: Any) -> None:
    gc.enable()


def on_files(files: Files, *, config: Any) -> Files:
    """Add the project's own pages, and every other file that a page links to."""
    linked = {path for page in _pages() for path in _linked(page).values()} - {"README.md"}
    for path in sorted({*linked, *PAGES}):
        where = path if path in PAGES else f"{COPIED}/{path}"
        files.append(File.generated(config, where, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Rewrite links that lead out of ``docs/``, or from the project's pages into it."""
    here = PurePosixPath(page.file.src_uri)
    up = "../" * (len(here.parts) - 1)
    if here.name in PAGES:
        markdown = markdown.replace("](docs/", "](")
    source = ROOT / here if here.name in PAGES else ROOT / "docs" / here
    if source.suffix != ".md":
        return markdown
    for target, path in _linked(source).items():
        where = path if path in PAGES else f"{COPIED}/{path}"
        if path == "README.md":
            where = "README.md"
        markdown = re.sub(rf"(?<=\]\(){re.escape(target)}(?=[)#])", f"{up}{where}", markdown)
    return markdown


def on_page_content(html: str, *, page: Any, config: Any, files: Files) -> str:
    """Make a notebook's links lead to built pages; MkDocs converts those of Markdown only."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    return re.sub(r'(?<=href=")((?:\.\./)*[\w/-]+)\.md(?=["#])', r"\1.html", html)
