"""A BagIt bag (version 0.97) that holds upstream's documents, and says where all else is to be had.

``fetch.txt`` names each file's address, ``manifest-sha256.txt`` or ``manifest-md5.txt`` its
checksum, whichever upstream gives: later versions of BagIt want all files in one manifest. Files
that a bag cannot have are named in ``not-in-this-bag.txt``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

from neuromirror.lab.cite.cited_files import CitedDocument, CitedEntry, CitedFile, cited_files
from neuromirror.lab.cite.errors import OutputUnsuitableError
from neuromirror.lab.cite.phrases import listed_name, remarks, unlisted_remarks
from neuromirror.lab.cite.text import paragraph
from neuromirror.lab.cite.works import CitationCollection
from neuromirror.model import escape_unprintable
from neuromirror.store import SafeFolder

_LEFT_OUT_FILE: Final = "not-in-this-bag.txt"
_SAFE: Final = "/:@!$&'()*+,;=~?#[]%"
# what programs take for line breaks in a bag's lists, whoever wrote it
_AMBIGUOUS: Final = re.compile(r"%0[ad]|\A\s|\s\Z|[\x00-\x1f\x7f-\x9f\u2028\u2029]", re.IGNORECASE)
_NO_NAME: Final = "no list of a bag can hold its name"


def write_bag(collection: CitationCollection, folder: Path) -> None:
    """Makes the bag; ``folder`` must be empty, or not there. Nothing is left of one that failed."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputUnsuitableError(
            f"{folder} is not an empty folder; name another for the bag with -o"
        )
    parent = SafeFolder.open_path(folder.parent, create=True)
    with parent, parent.scratch() as scratch:
        parent.refuse_symlink(folder.name)
        draft = scratch.path / "bag"
        (draft / "data").mkdir(parents=True)
        with _Bag(draft) as bag:
            for work in collection.works:
                prefix = collection.prefix(work)
                for one in cited_files(work.state):
                    bag.add(one, prefix)
        bag.finish(collection)
        if parent.status(folder.name) is not None:
            parent.rmdir(folder.name)
        scratch.replace("bag", parent, folder.name)


class _Bag:
    """The lists of a bag, written line by line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._bytes = self._files = self._left_out = 0
        self._knows_sizes = True
        self._lists: dict[str, IO[str]] = {}

    def __enter__(self) -> _Bag:
        # a bag has at least one manifest
        self._list("manifest-sha256.txt")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, one: CitedEntry, prefix: str) -> None:
        """The next file, sub-dataset or document."""
        path = prefix + one.path
        if isinstance(one, CitedDocument):
            if _AMBIGUOUS.search(path):
                self._leave_out(path, _NO_NAME)
            else:
                self._write_document(path, one.content)
        elif isinstance(one, CitedFile):
            why = _left_out_reason(one, path)
            if why:
                self._leave_out(path, why)
                return
            algorithm, value = one.digest or ("", "")
            size = "-" if one.size is None else str(one.size)
            self._list("fetch.txt").write(
                f"{quote(one.web_urls[0], safe=_SAFE)} {size} data/{path}\n"
            )
            self._list(f"manifest-{algorithm}.txt").write(f"{value}  data/{path}\n")
            self._count(one.size)
        else:
            line = f"{escape_unprintable(path)}: a sub-dataset, at commit {one.commit}\n"
            self._list(_LEFT_OUT_FILE).write(line)

    def _leave_out(self, path: str, why: str) -> None:
        self._left_out += 1
        self._list(_LEFT_OUT_FILE).write(f"{escape_unprintable(path)}: {why}\n")

    def _write_document(self, path: str, content: bytes) -> None:
        target = self._folder / "data" / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(content)
        except (FileExistsError, NotADirectoryError) as error:
            raise OutputUnsuitableError(
                f"the bag cannot have {path!r}: this file system takes its name for that of "
                "another file of the bag (upper and lower case, or accents); name a folder on "
                "another file system with -o"
            ) from error
        digest = hashlib.sha256(content).hexdigest()
        self._list("manifest-sha256.txt").write(f"{digest}  data/{path}\n")
        self._count(len(content))

    def _count(self, size: int | None) -> None:
        self._files += 1
        self._bytes += size or 0
        self._knows_sizes &= size is not None

    def _list(self, name: str) -> IO[str]:
        if name not in self._lists:
            file = (self._folder / name).open("w", encoding="utf-8", newline="\n")
            self._lists[name] = self._stack.enter_context(file)
        return self._lists[name]

    def finish(self, collection: CitationCollection) -> None:
        """The files about the bag itself; the lists must be closed."""
        version = "BagIt-Version: 0.97\nTag-File-Character-Encoding: UTF-8\n"
        (self._folder / "bagit.txt").write_text(version, "utf-8", newline="\n")
        info = "".join(f"{name}: {value}\n" for name, value in self._info(collection))
        (self._folder / "bag-info.txt").write_text(info, "utf-8", newline="\n")
        tags = sorted(path for path in self._folder.iterdir() if path.is_file())
        lines = [f"{_sha256(path)}  {path.name}\n" for path in tags]
        (self._folder / "tagmanifest-sha256.txt").write_text("".join(lines), "utf-8", newline="\n")

    def _info(self, collection: CitationCollection) -> Iterator[tuple[str, str]]:
        for work in collection.works:
            if work.publisher is not None:
                yield "Source-Organization", work.publisher.name
        for work in collection.works:
            yield "External-Description", paragraph(work)
            yield "External-Identifier", work.doi_url or work.source
            yield "External-Identifier", work.qualified_swhid
            yield "Internal-Sender-Identifier", work.name
            for one in work.authors:
                yield "Contact-Name", listed_name(one)
            notes = [*remarks(work), *unlisted_remarks(work)]
            if notes:
                yield "Internal-Sender-Description", " ".join(notes)
        if self._left_out:
            yield "Files-Left-Out", f"{self._left_out}, named in {_LEFT_OUT_FILE}"
        if self._knows_sizes:
            yield "Payload-Oxum", f"{self._bytes}.{self._files}"


def _left_out_reason(one: CitedFile, path: str) -> str:
    """Why a bag cannot have a file; empty where it can."""
    if one.digest is None or one.digest[0] not in ("sha256", "md5"):
        return "no sha256 or md5 of it is known"
    if not one.web_urls:
        return "it has no address on the web" + (f", only {one.urls[0]}" if one.urls else "")
    return _NO_NAME if _AMBIGUOUS.search(path) else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
