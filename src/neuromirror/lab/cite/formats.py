"""The formats of a citation by name, and how one is written to a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neuromirror.lab.cite.bagit import write_bag
from neuromirror.lab.cite.bibtex import write_bibtex
from neuromirror.lab.cite.cff import write_cff
from neuromirror.lab.cite.croissant import write_croissant
from neuromirror.lab.cite.csl import write_csl
from neuromirror.lab.cite.datacite import write_datacite
from neuromirror.lab.cite.errors import FormatUnsuitableError, OutputUnsuitableError
from neuromirror.lab.cite.rocrate import write_rocrate
from neuromirror.lab.cite.text import write_text
from neuromirror.lab.cite.works import CitationCollection
from neuromirror.store import SafeFolder

_BAG: Final = "bagit"
_MODE: Final = 0o666


@dataclass(frozen=True, slots=True)
class CitationFormat:
    """A format; ``file_name`` is what a file of it is called by itself, empty for a folder.

    ``lists_files`` says whether it has an entry for each file.
    """

    file_name: str
    lists_files: bool = False


FORMATS: Final = {
    "text": CitationFormat("citation.txt"),
    "bibtex": CitationFormat("citation.bib"),
    "csl": CitationFormat("citation.csl.json"),
    "cff": CitationFormat("CITATION.cff"),
    "datacite": CitationFormat("datacite.json"),
    "ro-crate": CitationFormat("ro-crate-metadata.json", lists_files=True),
    _BAG: CitationFormat("", lists_files=True),
    "croissant": CitationFormat("croissant.json", lists_files=True),
}

_WRITERS: Final[dict[str, Callable[[CitationCollection], Iterator[str]]]] = {
    "text": write_text,
    "bibtex": write_bibtex,
    "csl": write_csl,
    "cff": write_cff,
    "datacite": write_datacite,
}


def cite(collection: CitationCollection, form: str, *, files: bool = True) -> Iterator[str]:
    """Yields a citation in a format of :data:`FORMATS`, piece by piece.

    Without ``files`` ro-crate and croissant describe the datasets alone. Raises
    FormatUnsuitableError for
    bagit, which is a folder.
    """
    if form == _BAG:
        raise FormatUnsuitableError("a bag is a folder: name an empty or new one with -o")
    if form == "ro-crate":
        return write_rocrate(collection, files=files)
    if form == "croissant":
        return write_croissant(collection, files=files)
    return _WRITERS[form](collection)


def write_citation(
    collection: CitationCollection, form: str, target: Path, *, files: bool = True
) -> Path:
    """Writes a citation to a file, or into a folder under the format's own name; gives its path.

    A file is replaced in one step; in a folder nothing is. Of bagit, ``target`` is the bag. Raises
    OutputUnsuitableError, and UnsafePathError for a symlink in a relative path.
    """
    if form == _BAG:
        write_bag(collection, target)
        return target
    if target.is_dir():
        target /= FORMATS[form].file_name
        if target.exists():
            raise OutputUnsuitableError(
                f"{target} is there already; name the file with -o to replace it"
            )
    elif not target.parent.is_dir():
        raise OutputUnsuitableError(f"there is no folder {target.parent}; make it first")
    pieces = cite(collection, form, files=files)
    with SafeFolder.open_path(target.parent) as folder:
        draft, handle = folder.new_file(_MODE)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.writelines(pieces)
            folder.replace(draft, folder, target.name)
        finally:
            folder.unlink(draft)
    return target
