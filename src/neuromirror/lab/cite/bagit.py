"""Write a BagIt bag (version 0.97) with the documents of upstream and the URLs of all other files.

``fetch.txt`` has the URL of each file, ``manifest-sha256.txt`` or ``manifest-md5.txt`` its
checksum, whichever upstream has; later versions of BagIt require all files in one manifest. Files
that a bag cannot contain are listed in ``not-in-this-bag.txt``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final

from msgspec.structs import replace

from neuromirror.lab.cite.cited_files import CitedDocument, CitedEntry, CitedFile, cited_files
from neuromirror.lab.cite.phrases import listed_name, remarks, unlisted_remarks
from neuromirror.lab.cite.text import paragraph
from neuromirror.lab.cite.works import CitationCollection
from neuromirror.lab.export_formats import printable_url
from neuromirror.lab.output_files import OutputUnsuitableError, new_folder
from neuromirror.model import escape_unprintable

_OMITTED_FILE: Final = "not-in-this-bag.txt"
# characters that programs may interpret as line breaks in the lists of a bag
_AMBIGUOUS: Final = re.compile(r"%0[ad]|\A\s|\s\Z|[\x00-\x1f\x7f-\x9f\u2028\u2029]", re.IGNORECASE)
_NO_NAME: Final = "its name cannot be written in the lists of a bag"
# writing and removing nested folders is recursive
_MAX_FOLDERS: Final = 200
_TOO_DEEP: Final = f"it is in more than {_MAX_FOLDERS} nested folders"


def write_bag(
    collection: CitationCollection, folder: Path, entries: Iterable[CitedEntry] | None = None
) -> None:
    """Write the bag to an empty or missing folder; a failure leaves nothing behind.

    Parameters
    ----------
    collection
        The works to cite.
    folder
        The folder of the bag.
    entries
        The content of the bag, with paths in the bag; by default the files of the collection.
    """
    with new_folder(folder) as draft:
        (draft / "data").mkdir(parents=True)
        with _Bag(draft) as bag:
            for one in _entries_of(collection) if entries is None else entries:
                bag.add(one)
        bag.finish(collection)


def _entries_of(collection: CitationCollection) -> Iterator[CitedEntry]:
    for work in collection.works:
        prefix = collection.prefix(work)
        for one in cited_files(work.state):
            yield replace(one, path=prefix + one.path)


class _Bag:
    """Writes the lists of a bag line by line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._bytes = self._files = self._omitted = 0
        self._knows_sizes = True
        self._lists: dict[str, IO[str]] = {}

    def __enter__(self) -> _Bag:
        # a bag must have a manifest
        self._list("manifest-sha256.txt")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, one: CitedEntry) -> None:
        """Add the next file, subdataset or document."""
        path = one.path
        if isinstance(one, CitedDocument):
            if _AMBIGUOUS.search(path):
                self._omit(path, _NO_NAME)
            elif path.count("/") > _MAX_FOLDERS:
                self._omit(path, _TOO_DEEP)
            else:
                self._write_document(path, one.content)
        elif isinstance(one, CitedFile):
            why = omission_reason(one)
            if why:
                self._omit(path, why)
                return
            algorithm, value = one.digest or ("", "")
            size = "-" if one.size is None else str(one.size)
            self._list("fetch.txt").write(f"{printable_url(one.web_urls[0])} {size} data/{path}\n")
            self._list(f"manifest-{algorithm}.txt").write(f"{value}  data/{path}\n")
            self._count(one.size)
        else:
            line = f"{escape_unprintable(path)}: a subdataset, at commit {one.commit}\n"
            self._list(_OMITTED_FILE).write(line)

    def _omit(self, path: str, why: str) -> None:
        self._omitted += 1
        self._list(_OMITTED_FILE).write(f"{escape_unprintable(path)}: {why}\n")

    def _write_document(self, path: str, content: bytes) -> None:
        target = self._folder / "data" / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(content)
        except (FileExistsError, NotADirectoryError) as error:
            raise OutputUnsuitableError(
                f"{path!r} cannot be written to the bag: this file system does not distinguish it "
                "from another file (upper and lower case, or accents); choose a folder on "
                "another file system with --output"
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
        """Write the files about the bag; the lists must be closed."""
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
        if self._omitted:
            yield "Files-Left-Out", f"{self._omitted}, named in {_OMITTED_FILE}"
        if self._knows_sizes:
            yield "Payload-Oxum", f"{self._bytes}.{self._files}"


def omission_reason(one: CitedFile) -> str:
    """Return why a bag cannot contain a file: no md5 or sha256, no web URL, an unsuitable name.

    The result is empty if it can.
    """
    if one.digest is None or one.digest[0] not in ("sha256", "md5"):
        return "it has no sha256 or md5"
    if not one.web_urls:
        return "it has no web URL" + (f", only {one.urls[0]}" if one.urls else "")
    return _NO_NAME if _AMBIGUOUS.search(one.path) else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
