"""``neuromirror cite``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neuromirror.cli.addresses import DEFAULT_LOCK, resolve_version
from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import (
    NamedPath,
    Settings,
    print_pieces,
    settings_options,
)
from neuromirror.model.errors import ConfigurationError

if TYPE_CHECKING:
    from neuromirror.lab.cite import CitationCollection, CitedState

# the same as lab.cite.FORMATS, which is slow to import
_FORMATS = ("text", "bibtex", "csl", "cff", "datacite", "ro-crate", "croissant")


@command(
    "cite",
    example="""\
neuromirror cite dandi:000027@0.210831.2033
neuromirror cite datasets.lock --format bibtex -o datasets.bib
neuromirror cite ./clone --format ro-crate -o ro-crate-metadata.json""",
)
@argument(
    "what",
    nargs=-1,
    metavar="[VERSION|LOCK|DIR]...",
    help="Versions, lock files (all their pins) or folders of clones [default: datasets.lock].",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="text",
    show_default=True,
    help="Output format.",
)
@click.option(
    "-o",
    "--output",
    type=NamedPath(),
    metavar="FILE|DIR",
    help="Output file, or an existing folder for it [default: print the citation].",
)
@click.option(
    "--no-files", is_flag=True, help="Leave out the list of files (ro-crate and croissant)."
)
@settings_options
def cite_command(
    settings: Settings, what: tuple[str, ...], *, form: str, output: Path | None, no_files: bool
) -> None:
    """Cite versions: authors, title, DOI and exact state.

    A clone needs no store; a lock file needs the store, or the bundles or manifests beside it.
    Authors, license and dates come from the documents of the archive in git, without a request. The
    same version always gives exactly the same output.

    \b
    text       a paragraph
    bibtex     an entry for biblatex
    csl        CSL-JSON
    cff        a CITATION.cff
    datacite   JSON of DataCite
    ro-crate   RO-Crate 1.2, with the URL and checksum of every file
    croissant  Croissant 1.0, with the URL and checksum of every file
    """
    from neuromirror.lab.cite import FORMATS, cite, write_citation

    if no_files and form not in ("ro-crate", "croissant"):
        raise ConfigurationError(
            f"--no-files is for ro-crate and croissant; {form} has no list of files"
        )
    if settings.json and output is None and FORMATS[form].lists_files and not no_files:
        raise ConfigurationError(f"{form} can be long; with --json, specify an output file with -o")
    with ExitStack() as stack:
        collection = _collection(settings, what or (str(DEFAULT_LOCK),), stack)
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
        print_pieces(pieces)


def _collection(settings: Settings, what: tuple[str, ...], stack: ExitStack) -> CitationCollection:
    from neuromirror.lab.cite import CitationCollection, read_work

    states = [state for name in what for state in _states(settings, name, stack)]
    works = tuple(read_work(state) for state in states)
    if len(what) == 1 and Path(what[0]).is_file():
        return CitationCollection(works, f"Datasets pinned in {Path(what[0]).name}")
    return CitationCollection(works)


def _states(settings: Settings, name: str, stack: ExitStack) -> list[CitedState]:
    """Return the states of a lock file, a clone or a version."""
    from neuromirror.index import IndexMissingError
    from neuromirror.lab.cite import (
        NothingToCiteError,
        state_of_clone,
        state_of_version,
        states_of_lock,
    )
    from neuromirror.lab.lockfile import similar_paths
    from neuromirror.model.errors import UnknownAddressError
    from neuromirror.store import NotAStoreError

    path = Path(name)
    if not name:
        raise NothingToCiteError("an argument is empty; is a variable of your script unset?")
    if path.is_file():
        from neuromirror.lab.lockfile import load_lock

        try:
            store = settings.store()
        except NotAStoreError:
            store = None
        states = states_of_lock(load_lock(path), store, stack)
        if not states:
            raise NothingToCiteError(
                f"{path}: the lock file has no pins; add one with 'neuromirror pin'"
            )
        return states
    if path.is_dir():
        return [state_of_clone(path)]
    try:
        with settings.index(name) as index:
            row = resolve_version(settings, index, name)[1]
    except (UnknownAddressError, NotAStoreError, IndexMissingError) as error:
        if ":" in name:
            raise
        raise NothingToCiteError(
            f"{name!r} is not a lock file, a clone or a version; write a version as "
            "<mirror>:<id>@<label>, for example dandi:000027@0.210831.2033",
            suggestions=[*error.suggestions, *similar_paths(path)],
        ) from error
    return [state_of_version(settings.store(), row)]
