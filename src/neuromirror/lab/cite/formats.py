"""The citation formats, and writing a citation to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from neuromirror.lab.cite.bibtex import write_bibtex
from neuromirror.lab.cite.cff import write_cff
from neuromirror.lab.cite.croissant import write_croissant
from neuromirror.lab.cite.csl import write_csl
from neuromirror.lab.cite.datacite import write_datacite
from neuromirror.lab.cite.rocrate import write_rocrate
from neuromirror.lab.cite.text import write_text
from neuromirror.lab.cite.works import CitationCollection
from neuromirror.lab.output_files import OutputUnsuitableError, write_file


class CitationFormat(Struct, frozen=True):
    """A format.

    Attributes
    ----------
    file_name
        The default name of the output file.
    write
        Returns the pieces of a citation.
    lists_files
        Whether the format has an entry per file.
    """

    file_name: str
    write: Callable[..., Iterator[str]]
    lists_files: bool = False


FORMATS: Final = {
    "text": CitationFormat("citation.txt", write_text),
    "bibtex": CitationFormat("citation.bib", write_bibtex),
    "csl": CitationFormat("citation.csl.json", write_csl),
    "cff": CitationFormat("CITATION.cff", write_cff),
    "datacite": CitationFormat("datacite.json", write_datacite),
    "ro-crate": CitationFormat("ro-crate-metadata.json", write_rocrate, lists_files=True),
    "croissant": CitationFormat("croissant.json", write_croissant, lists_files=True),
}


def cite(collection: CitationCollection, form: str, *, files: bool = True) -> Iterator[str]:
    """Return the pieces of a citation in a format of :data:`FORMATS`.

    Parameters
    ----------
    collection
        The works to cite.
    form
        A name in :data:`FORMATS`.
    files
        Whether ro-crate and croissant list the files.

    Returns
    -------
    Iterator[str]
        The text in pieces, to be written one after the other.
    """
    layout = FORMATS[form]
    if layout.lists_files:
        return layout.write(collection, files=files)
    return layout.write(collection)


def write_citation(
    collection: CitationCollection, form: str, target: Path, *, files: bool = True
) -> Path:
    """Write a citation to a file, and return its path.

    An existing file at ``target`` is replaced atomically. If ``target`` is a folder, a file with
    the default name of the format is created in it; if this file exists, it is not replaced, and
    OutputUnsuitableError is raised.

    Parameters
    ----------
    collection
        The works to cite.
    form
        A name in :data:`FORMATS`.
    target
        The file or folder to write.
    files
        Whether ro-crate and croissant list the files.

    Returns
    -------
    Path
        The path of the file that was written.

    Raises
    ------
    OutputUnsuitableError
        The citation cannot be written to the path.
    UnsafePathError
        ``target`` is a relative path, and one of its folders is a symlink.
    """
    if target.is_dir():
        target /= FORMATS[form].file_name
        if target.exists():
            raise OutputUnsuitableError(
                f"{target} exists; specify the file itself with --output to replace it"
            )
    write_file(cite(collection, form, files=files), target)
    return target
