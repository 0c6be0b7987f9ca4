"""What is saved and kept: checksums, citations, badges."""

from __future__ import annotations

from functools import partial
from typing import Any

from datasette.utils.asgi import AsgiStream, Response

from neuromirror.index import Answers, FileRow, FilesNotIndexed, Index, VersionRow
from neuromirror.web.asked import Asked, Wrong, view
from neuromirror.web.words import counted
from neuromirror.web.works import FORMATS, citation_of

_TOGETHER = 5000
"""Files of a list that are asked for and sent at once."""
_ANSWERS = 200_000
"""Files above which a badge does not count what their places said."""


@view
async def sums(asked: Asked) -> Any:
    """The sha256 of all files, as ``sha256sum -c`` takes them.

    What has none is in lines of comment, which it passes over.
    """
    name, label = asked.part("name"), asked.part("label")
    row = await asked.ask(lambda index: _listed(index, name, label))

    async def write(to: Any) -> None:
        await to.write(
            f"# {row.name} {row.state}\n# In a clone of it: sha256sum -c (GNU coreutils)\n"
        )
        after, left_out = "", 0
        while True:
            found = await asked.ask(partial(_some, name=name, row=row, after=after))
            left_out += sum(_sha256(one) is None for one in found)
            await to.write("".join(map(_line, found)))
            if len(found) < _TOGETHER:
                break
            after = found[-1].path
        parts = await asked.ask(lambda index: [one.path for one in index.parts(row)])
        for path in parts:
            await to.write(f"# a sub-dataset, which has a list of its own: {path}\n")
        if left_out:
            await to.write(f"# not in the list: {counted(left_out, 'file')} without a sha256\n")

    headers = {"cache-control": "no-cache"}
    return AsgiStream(write, 200, headers, "text/plain; charset=utf-8")


def _listed(index: Index, name: str, label: str) -> VersionRow:
    """The version; raises FilesNotIndexed at once, before anything is sent."""
    row = index.resolve(name, label)
    if not row.indexed:
        raise FilesNotIndexed(
            f"the files of {row.name} are not in the index but in the store's records: "
            f"'neuromirror files {row.name} --format sha256sum' lists them"
        )
    return row


def _some(index: Index, name: str, row: VersionRow, after: str) -> list[FileRow]:
    # by its commit, since a rebuild may have given it another row meanwhile
    return list(index.files(index.resolve(name, row.commit), after=after, limit=_TOGETHER))


def _sha256(file: FileRow) -> str | None:
    return next((one.value for one in file.digests if one.algorithm == "sha256"), None)


def _line(file: FileRow) -> str:
    # a path in git holds nothing that sha256sum would want escaped (annex.git_path)
    sha256 = _sha256(file)
    if sha256 is not None:
        return f"{sha256}  {file.path}\n"
    known = " ".join(f"{one.algorithm}:{one.value}" for one in file.digests) or "nothing"
    return f"# no sha256 is known, but {known}: {file.path}\n"


@view
async def citation(asked: Asked) -> Response:
    """A citation as a file."""
    name, label, form = asked.part("name"), asked.part("label"), asked.value("format", "text")
    if form not in FORMATS:
        raise Wrong(f"a citation is written as {', '.join(FORMATS)}, not as {form[:40]!r}")
    row = await asked.ask(lambda index: index.resolve(name, label))
    store = asked.site.store
    text = await asked.site.reader.do(lambda: citation_of(store, row, form))
    return asked.tagged(text, "text/plain; charset=utf-8")


@view
async def badge(asked: Asked) -> Response:
    """A picture that says which state a paper stands on, or when its places were asked."""
    name, label, show = asked.part("name"), asked.part("label"), asked.value("show", "pinned")
    if show not in ("pinned", "verified"):
        raise Wrong(f"a badge shows pinned or verified, not {show[:40]!r}")
    row = await asked.ask(lambda index: index.resolve(name, label))
    if show == "pinned":
        words = "pinned", f"{row.name} · {row.state.removeprefix('sha256:')[:12]}"
    else:
        found = None
        if row.indexed and row.files <= _ANSWERS:
            found = await asked.ask(lambda index: index.answers(index.resolve(name, row.commit)))
        words = "verified on", verified(found)
    text = await asked.rendered("badge.svg", left=words[0], right=words[1])
    return asked.tagged(text, "image/svg+xml; charset=utf-8")


def verified(found: Answers | None) -> str:
    """When the places of a version's files were last seen to have them, in a few words."""
    if found is None:
        return "not counted"
    if found.since is None:
        hashed = found.files and found.hashed == found.files
        return "no date; hashed when mirrored" if hashed else "no date yet"
    if found.fine == found.files:
        return f"{found.since[:10]} · all {counted(found.files, 'file')} offered"
    return f"{found.since[:10]} · {found.fine:,} of {counted(found.files, 'file')} offered"
