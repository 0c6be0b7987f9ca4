"""``neuromirror cite``."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neuromirror.cli.common import NamedPath, Settings, settings_options, split_version
from neuromirror.model.errors import ConfigurationError

if TYPE_CHECKING:
    from neuromirror.lab.cite import CitationCollection, CitedState

_IN_MEMORY = 1 << 20

# as in lab.cite.FORMATS, which takes time to import
_FORMATS = ("text", "bibtex", "csl", "cff", "datacite", "ro-crate", "bagit", "croissant")


@click.command("cite")
@click.argument("what", nargs=-1, required=True, metavar="VERSION|LOCK|DIR...")
@click.option("--format", "form", type=click.Choice(_FORMATS), default="text", show_default=True)
@click.option(
    "-o",
    "--output",
    type=NamedPath(),
    metavar="FILE|DIR",
    help="A file, or a folder to put it in; of bagit the bag, a folder that is empty or new.",
)
@click.option(
    "--no-files", is_flag=True, help="In ro-crate and croissant, leave out the list of files."
)
@settings_options
def cite_command(
    settings: Settings, what: tuple[str, ...], *, form: str, output: Path | None, no_files: bool
) -> None:
    """Cite versions: authors, title, DOI, and the exact state.

    VERSION is a name such as dandi:000027@0.210831.2033, as 'neuromirror show' takes it; LOCK a
    file that 'neuromirror pin' wrote, of which all pins are cited; DIR a clone of a dataset, which
    needs no store. Several are cited in one file.

    What is said of authors, license and dates stands in upstream's own documents in the version's
    git tree; what they do not say is left out, and no archive is asked. A lock's states are read
    from the store, or from the bundles or manifests beside the lock. The same version gives the
    same bytes wherever and whenever it is cited.

    text is a paragraph, bibtex an entry for biblatex, csl CSL-JSON, cff a CITATION.cff, datacite
    DataCite's JSON. ro-crate (1.2) and croissant (1.0) list every file with its address and
    checksum. bagit makes a bag that other programs can fill: it holds upstream's documents, and in
    fetch.txt the addresses of all files that have a sha256 or md5.
    """
    from neuromirror.lab.cite import FORMATS, cite, write_citation

    if no_files and form not in ("ro-crate", "croissant"):
        raise ConfigurationError(f"{form} has no list of files that --no-files could leave out")
    if settings.json and output is None and FORMATS[form].lists_files and not no_files:
        raise ConfigurationError(f"{form} may be long: with --json name a file for it with -o")
    with ExitStack() as stack:
        collection = _collection(settings, what, stack)
        record: dict[str, Any] = {
            "format": form,
            "versions": [work.name for work in collection.works],
            "swhids": [work.swhid for work in collection.works],
        }
        if output is not None:
            path = write_citation(collection, form, output, files=not no_files)
            settings.emit("cite", {**record, "path": str(path)}, f"ok  {path}")
            return
        pieces = cite(collection, form, files=not no_files)
        if settings.json:
            settings.emit("cite", {**record, "path": None, "citation": "".join(pieces)})
            return
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as whole:
            # nothing is printed of a citation that cannot be finished
            for piece in pieces:
                # a file in a format of its own: UTF-8 whatever the terminal's encoding
                whole.write(piece.encode("utf-8"))
            whole.seek(0)
            sys.stdout.flush()
            shutil.copyfileobj(whole, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def _collection(settings: Settings, what: tuple[str, ...], stack: ExitStack) -> CitationCollection:
    from neuromirror.lab.cite import CitationCollection, read_work

    states = [state for name in what for state in _states(settings, name, stack)]
    works = tuple(read_work(state) for state in states)
    if len(what) == 1 and Path(what[0]).is_file():
        return CitationCollection(works, f"Datasets pinned in {Path(what[0]).name}")
    return CitationCollection(works)


def _states(settings: Settings, name: str, stack: ExitStack) -> list[CitedState]:
    """The states that an argument means: a lock, a clone, or else a version."""
    from neuromirror.lab.cite import (
        NothingToCiteError,
        state_of_clone,
        state_of_version,
        states_of_lock,
    )

    path = Path(name)
    if not name:
        raise NothingToCiteError("one of the names is empty; is a variable of a script unset?")
    if path.is_file():
        from neuromirror.lab.lockfile import load_lock
        from neuromirror.store import NotAStoreError

        try:
            store = settings.store()
        except NotAStoreError:
            store = None
        states = states_of_lock(load_lock(path), store, stack)
        if not states:
            raise NothingToCiteError(f"{path} pins nothing")
        return states
    if path.is_dir():
        return [state_of_clone(path)]
    if ":" not in name:
        raise NothingToCiteError(
            f"there is no lock and no clone {name!r}, and it is not a version; write "
            "<mirror>:<id>@<label>, for example dandi:000027@0.210831.2033"
        )
    with settings.index() as index:
        row = index.resolve(*split_version(name))
    return [state_of_version(settings.store(), row)]
