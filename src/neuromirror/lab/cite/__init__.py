"""Citations of mirrored versions: upstream's authors, title, DOI and license, and the exact state.

:func:`read_work` reads the metadata from git alone; :func:`cite` writes it in one of
:data:`FORMATS`, with the same bytes at any time and place. No DOI is created: a state is identified
by its SWHID and its state digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from neuromirror.lab.cite import bibliography, crates
from neuromirror.lab.cite.documents import read_work
from neuromirror.lab.cite.states import state_of_clone, state_of_version, states_of_lock
from neuromirror.lab.cite.works import (
    CitationCollection,
    CitedState,
    CitedWork,
    NothingToCiteError,
)
from neuromirror.lab.output_files import OutputUnsuitableError, write_file

__all__ = [
    "FORMATS",
    "CitationCollection",
    "CitedState",
    "CitedWork",
    "NothingToCiteError",
    "cite",
    "read_work",
    "state_of_clone",
    "state_of_version",
    "states_of_lock",
    "write_citation",
]


class CitationFormat(NamedTuple):
    """A format: the default name of its file, what yields its text, and if it lists the files."""

    file_name: str
    write: Callable[..., Iterator[str]]
    lists_files: bool = False


FORMATS: Final = {
    "text": CitationFormat("citation.txt", bibliography.write_text),
    "bibtex": CitationFormat("citation.bib", bibliography.write_bibtex),
    "csl": CitationFormat("citation.csl.json", bibliography.write_csl),
    "cff": CitationFormat("CITATION.cff", bibliography.write_cff),
    "datacite": CitationFormat("datacite.json", bibliography.write_datacite),
    "ro-crate": CitationFormat("ro-crate-metadata.json", crates.write_rocrate, lists_files=True),
    "croissant": CitationFormat("croissant.json", crates.write_croissant, lists_files=True),
}


def cite(collection: CitationCollection, form: str, *, files: bool = True) -> Iterator[str]:
    """Return the text of a citation in pieces, to be written one after the other.

    Parameters
    ----------
    collection
        The works to cite.
    form
        A name in :data:`FORMATS`.
    files
        Whether ro-crate and croissant list the files.
    """
    layout = FORMATS[form]
    return layout.write(collection, **({"files": files} if layout.lists_files else {}))


def write_citation(
    collection: CitationCollection, form: str, target: Path, *, files: bool = True
) -> Path:
    """Write a citation to a file, and return its path.

    An existing file at ``target`` is replaced atomically. If ``target`` is a folder, a file with
    the default name of the format is created in it; if this file exists, it is not replaced.

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
