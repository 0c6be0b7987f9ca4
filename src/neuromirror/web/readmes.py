"""READMEs of versions, read from upstream in the background, verified and rendered.

Size, time, concurrent requests and the cache are limited. Requests contain no token, so that only
public content is shown. Raw HTML in Markdown is escaped, not rendered; of links only ``https``,
``http`` and ``mailto`` are kept; an image becomes a link to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING, Final

from markupsafe import Markup
from msgspec import Struct

from neuromirror.index import FileRow, Index, UnknownFileError, VersionRow
from neuromirror.model import NeuromirrorError
from neuromirror.net import RequestLimits
from neuromirror.store import Store
from neuromirror.volume import open_version_files
from neuromirror.web.async_index import SharedResults, UnavailableError
from neuromirror.web.rendering import printable_lines

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_NAMES: Final = (
    *("README.md", "readme.md", "Readme.md", "README.markdown"),
    *("README", "readme", "README.txt", "readme.txt", "README.rst"),
)
"""Names of a README, the best first."""
_MARKDOWN: Final = (".md", ".markdown")
_MAX_BYTES: Final = 1 << 18
"""Size above which a README is not read."""
_MAX_RENDERED: Final = 1 << 16
"""Number of characters that are rendered."""
_MAX_CELLS: Final = 1 << 14
"""Number of cells above which tables are not rendered; short rows count with all their cells."""
_MAX_WAIT: Final = 1.0
"""Seconds that a page waits for a README that is not cached."""
_SECONDS: Final = 15.0
_THREADS: Final = 2
_MAX_PENDING: Final = 8
_MAX_CACHED: Final = 256
_FAILURE_SECONDS: Final = 300.0
"""Seconds before a failed read is tried again."""
_HEADING_OFFSET: Final = 2
"""The title of the page is an h1, that of the section an h2."""
_LIMITS: Final = RequestLimits(
    attempts=1, connect=5.0, read=10.0, total=_SECONDS, per_host=2, retry_after_max=1.0
)
_SCHEMES: Final = ("https://", "http://", "mailto:")


class Readme(Struct, frozen=True):
    """A README of a version.

    Attributes
    ----------
    path
        The path of the file.
    html
        The text as HTML; empty while the file is being read.
    is_cut
        Whether only the beginning of a long text is shown.
    is_failed
        Whether the file could not be read.
    """

    path: str
    html: str = ""
    is_cut: bool = False
    is_failed: bool = False


def find_readme(index: Index, row: VersionRow) -> FileRow | None:
    """Return the README in the top folder of a version; None without one of a suitable size."""
    if not row.indexed:
        return None
    for name in _NAMES:
        try:
            file = index.files.get(row, name)
        except UnknownFileError:
            continue
        if file.size is not None and 0 < file.size <= _MAX_BYTES:
            return file
    return None


class ReadmeService:
    """Reads READMEs from upstream in the background, for the pages of a store; for one event loop.

    Nothing is requested from upstream unless ``is_allowed``.
    """

    def __init__(self, store: Store, *, is_allowed: bool) -> None:
        self._store, self._is_allowed = store, is_allowed
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="readmes")
        self._readmes: SharedResults[str, Readme] = SharedResults(
            _MAX_CACHED,
            failure_seconds=_FAILURE_SECONDS,
            max_pending=_MAX_PENDING,
            busy="many READMEs are being read",
        )

    async def read(self, row: VersionRow, file: FileRow) -> Readme:
        """Return the README of a version, without its text if that takes longer than a second."""
        if not self._is_allowed:
            return Readme(file.path, is_failed=True)

        async def read() -> Readme:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._read, row, file)

        try:
            async with asyncio.timeout(_MAX_WAIT):
                return await self._readmes.get(file.key, read)
        except TimeoutError:
            return Readme(file.path)
        except UnavailableError as error:
            return Readme(file.path, is_failed=error.status != 503)

    def _read(self, row: VersionRow, file: FileRow) -> Readme:
        try:
            with closing(
                open_version_files(
                    self._store, row, has_credentials=False, limits=_LIMITS, seconds=_SECONDS
                )
            ) as files:
                found = files.git_document(file.path)
                if found is None:
                    content = files.read_object(file.path, _MAX_BYTES)
                    found = None if content is None else bytes(content)
        except (NeuromirrorError, OSError):
            found = None
        if found is None:
            raise UnavailableError(f"{file.path} cannot be read", 502)
        text = found.decode("utf-8", "replace")
        return Readme(file.path, render(file.path, text), is_cut=len(text) > _MAX_RENDERED)


def render(path: str, text: str) -> Markup:
    """Return the text of a README as safe HTML: Markdown rendered, anything else as it is."""
    shown = printable_lines(text[:_MAX_RENDERED].replace("\r\n", "\n").expandtabs(4))
    if not path.lower().endswith(_MARKDOWN):
        return Markup("<pre>{}</pre>").format(shown)
    lines = shown.split("\n")
    cells = len(lines) * max(line.count("|") for line in lines)
    parser = _parser(has_tables=cells <= _MAX_CELLS)
    tokens = parser.parse(shown)
    _restrict(tokens)
    # the parser escapes raw HTML (html=False); tokens have allowed links only
    return Markup(parser.renderer.render(tokens, parser.options, {}))


@cache
def _parser(*, has_tables: bool) -> MarkdownIt:
    from markdown_it import MarkdownIt

    rules = ["strikethrough", *(["table"] if has_tables else [])]
    return MarkdownIt("commonmark", {"html": False}).enable(rules)


def _restrict(tokens: Sequence[Token]) -> None:
    """Lower the headings, restrict the links and replace the images, in place."""
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + _HEADING_OFFSET)}"
        elif token.type == "link_open":
            address = str(token.attrs.get("href", ""))
            allowed = address.lower().startswith(_SCHEMES)
            token.attrs = {"href": address, "rel": "noreferrer nofollow"} if allowed else {}
            if not allowed:
                token.tag = "span"
        elif token.type == "image":
            _replace_image(token)
        _restrict(token.children or ())
    _close_spans(tokens)


def _close_spans(tokens: Sequence[Token]) -> None:
    """Set the tag of each link's end to that of its start."""
    tags: list[str] = []
    for token in tokens:
        if token.type == "link_open":
            tags.append(token.tag)
        elif token.type == "link_close" and tags:
            token.tag = tags.pop()


def _replace_image(token: Token) -> None:
    """Replace an image by its name: pages load nothing from other sites."""
    token.type, token.content = (
        "html_inline",
        str(Markup('<span class="soft">[{}]</span>').format(token.content or "image")),
    )
    token.children = []
