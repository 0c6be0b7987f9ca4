"""Commands for a lock file: pin, outdated, cite, export-lock and reproduce."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from neuromirror.cli import commands as cli
from neuromirror.cli.addresses import DEFAULT_LOCK, refuse_address, resolve_version
from neuromirror.cli.common import NamedPath, Settings, print_pieces, printable, step_line
from neuromirror.model.errors import ConfigurationError, NeuromirrorError, count_of, format_bytes

if TYPE_CHECKING:
    from neuromirror.index import Index
    from neuromirror.lab import Outcome, Reproduction
    from neuromirror.lab.cite import CitationCollection, CitedState
    from neuromirror.lab.export_lock import LockExport
    from neuromirror.lab.pin import CataloguePins


@cli.command(
    "pin",
    example="""\
neuromirror pin dandi:000027@0.210831.2033
neuromirror pin dandi:000027 --path 'sub-01/*' --bundle
neuromirror pin https://data.example.org/dataset/dandi:000027@0.210831.2033
neuromirror pin --remove dandi:000027""",
)
@cli.many(
    "versions",
    "[VERSION]...",
    "Versions, e.g. dandi:000027@draft (without a label, the latest; mirror them first), "
    "pages of a catalogue, or folders of clones, whose checked-out version is pinned.",
)
@cli.path_option(
    "-o --output FILE", "Lock file; it is created if it does not exist.", default=DEFAULT_LOCK
)
@cli.repeatable(
    "--path paths GLOB",
    "Pin only files or folders (with all files below) that match, e.g. sub-01, sub-*/anat or "
    "**/*.nwb; * does not match a slash. Repeat to pin more. The paths of an earlier pin are "
    "replaced.",
)
@cli.flag("--whole", "Remove the --path limits of an earlier pin: pin the whole dataset.")
@click.option(
    "--bundle/--no-bundle",
    default=None,
    help="Write a git bundle of each dataset beside the lock file, to restore without the store. "
    "It has commits and checksums, no file content, which is still downloaded from the archive.",
)
@click.option(
    "--streamable/--no-streamable",
    default=None,
    help="Copy the block digests of the pinned files to FILE.d, beside the lock file, to read and "
    "verify parts of files without the store. 'neuromirror digest' computes them.",
)
@cli.repeatable(
    "--clone clones URL",
    "URL for others to clone from: a store (ria+https://…), or a URL with {alias} "
    "(dandi--000027) or {id} (000027).",
)
@cli.repeatable("--remove DATASET", "Remove the pin of this dataset from the lock file.")
@cli.settings_options
def pin_command(
    settings: Settings,
    versions: tuple[str, ...],
    output: Path,
    paths: tuple[str, ...],
    clones: tuple[str, ...],
    remove: tuple[str, ...],
    *,
    whole: bool,
    bundle: bool | None,
    streamable: bool | None,
) -> None:
    """Record versions in a lock file.

    For the folder of a clone, such as ".", the checked-out version is pinned. A catalogue page URL
    works without a store. A new version of a pinned dataset replaces the old one; its paths, clone
    URLs, --bundle and --streamable are kept unless an option changes them. The folder FILE.d has
    the manifests (every file with its digest and URLs), the bundles and the block digests: keep it
    with the lock file.
    """
    from neuromirror.lab.clone_urls import is_per_dataset
    from neuromirror.lab.pin import pin_from_catalogues

    if not versions and not remove:
        raise ConfigurationError("nothing to pin; specify a VERSION, or a dataset with --remove")
    if paths and whole:
        raise ConfigurationError("--path and --whole cannot be used together; use one of them")
    shared_urls = [url for url in clones if not is_per_dataset(url)]
    if shared_urls and len(versions) > 1:
        raise ConfigurationError(
            f"--clone {shared_urls[0]}: one URL cannot serve {len(versions)} datasets; write "
            "{alias} or {id} where their URLs differ (--clone 'https://example.org/{alias}'), "
            "use the URL of a store (ria+https://…), or pin one dataset at a time"
        )
    globs = () if whole else paths or None
    fetched = _pins_of_catalogues(settings, versions, globs)
    if fetched is not None:
        if bundle or streamable:
            raise ConfigurationError(
                f"{'--bundle' if bundle else '--streamable'} needs a store with the version; "
                "without it, the lock file has the URL of the catalogue to clone from"
            )
        with step_line("pinning") as progress:
            progress(f"{len(fetched)} versions of {fetched[0].base}")
            outcomes = pin_from_catalogues(output, fetched, clones=clones or None, remove=remove)
    else:
        outcomes = _pin_from_store(
            settings, versions, output, remove, globs, clones, bundle=bundle, streamable=streamable
        )
    for outcome in outcomes:
        line = f"{outcome.status:<10} {outcome.path}  {outcome.message}"
        settings.emit("pin", outcome.to_json(), line)
        if outcome.latest is not None:
            warning = (
                f"neuromirror: warning: {outcome.dataset}@{outcome.version} is checked out and "
                f"pinned, but the latest version is {outcome.latest}"
            )
            click.echo(printable(warning), err=True)


def _pin_from_store(
    settings: Settings,
    versions: tuple[str, ...],
    output: Path,
    remove: tuple[str, ...],
    globs: tuple[str, ...] | None,
    clones: tuple[str, ...],
    *,
    bundle: bool | None,
    streamable: bool | None,
) -> list[Outcome]:
    """Pin versions that the store has."""
    from msgspec.structs import replace

    from neuromirror.lab.globs import escape
    from neuromirror.lab.pin import PinRequest, pin, pin_request_for_clone

    def pin_request(name: str, index: Index) -> PinRequest:
        chosen = globs
        if Path(name).is_dir():
            request = pin_request_for_clone(Path(name), index)
        else:
            address, _ = resolve_version(settings, index, name)
            request = PinRequest(address.dataset, address.label)
            if address.path is not None and globs is None:
                chosen = (escape(address.path),)
        return replace(
            request, paths=chosen, clones=clones or None, bundle=bundle, streamable=streamable
        )

    addresses = [name for name in versions if not Path(name).is_dir()]
    with settings.index(*addresses) as index, step_line("pinning") as progress:
        store = settings.store()
        requests = [pin_request(name, index) for name in versions]
        return list(pin(output, requests, store, index, remove=remove, progress=progress))


def _pins_of_catalogues(
    settings: Settings, versions: tuple[str, ...], globs: tuple[str, ...] | None
) -> list[CataloguePins] | None:
    """Return the pins to request from catalogues; None if all versions are in the store.

    Raises
    ------
    ConfigurationError
        Some versions are in the store, and others are not.
    """
    from neuromirror.cli.get import is_stored
    from neuromirror.lab.pin import parse_catalogue_url

    pages = {text: parse_catalogue_url(text, globs) for text in versions}
    found = [
        one
        for text, one in pages.items()
        if one is not None and not all(is_stored(settings, name) for name in one.names)
    ]
    if not found:
        return None
    if len(found) < len(pages):
        raise ConfigurationError(
            f"{found[0].base} provides some of the versions, the store the others; pin them with "
            "two commands"
        )
    return found


@cli.command("outdated", example="neuromirror outdated datasets.lock")
@cli.argument(
    "lock",
    type=NamedPath(),
    default=DEFAULT_LOCK,
    metavar="[LOCK]",
    help="A lock file [default: datasets.lock].",
)
@cli.flag("--exit-code", "Exit with 4 if a pin has a newer version.")
@cli.settings_options
def outdated_command(settings: Settings, lock: Path, *, exit_code: bool) -> None:
    """List the pins that have newer versions in the store.

    The pin of a draft is compared with the newest state of the draft, any other pin with the newest
    published version (with the newest state if nothing is published). With --json, "newer" is true
    or false; if it is true, "version" is the newer version.
    """
    from neuromirror.lab import tally
    from neuromirror.lab.lockfile import load_lock
    from neuromirror.lab.pin import find_outdated

    refuse_address(lock, "a lock file", "versions", "pin")
    with settings.index() as index:
        outcomes = list(find_outdated(load_lock(lock), index))
    for outcome in outcomes:
        status = outcome.status if outcome.failed else "newer" if outcome.newer else "newest"
        line = f"{status:<10} {outcome.path}  {outcome.message}"
        settings.emit("outdated", outcome.to_json(), line)
    is_newer = exit_code and any(one.newer for one in outcomes)
    sys.exit(tally(outcomes).exit_code or (4 if is_newer else 0))


# the same as lab.cite.FORMATS, which is slow to import
_FORMATS = ("text", "bibtex", "csl", "cff", "datacite", "ro-crate", "croissant")


@cli.command(
    "cite",
    example="""\
neuromirror cite dandi:000027@0.210831.2033
neuromirror cite datasets.lock --format bibtex -o datasets.bib
neuromirror cite ./clone --format ro-crate -o ro-crate-metadata.json""",
)
@cli.many(
    "what",
    "[VERSION|LOCK|DIR]...",
    "Versions, lock files (all their pins) or folders of clones [default: datasets.lock].",
)
@cli.choice_option("--format form", _FORMATS, "Output format.", default="text")
@cli.path_option(
    "-o --output FILE|DIR",
    "Output file, or an existing folder for it [default: print the citation].",
)
@cli.flag("--no-files", "Leave out the list of files (ro-crate and croissant).")
@cli.settings_options
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
    from neuromirror.lab.cite import state_of_clone, state_of_version, states_of_lock
    from neuromirror.lab.lockfile import similar_paths
    from neuromirror.model.errors import UnknownAddressError
    from neuromirror.store import NotAStoreError

    path = Path(name)
    if not name:
        raise ConfigurationError("an argument is empty; is a variable of your script unset?")
    if path.is_file():
        from neuromirror.lab.lockfile import load_lock

        try:
            store = settings.store()
        except NotAStoreError:
            store = None
        states = states_of_lock(load_lock(path), store, stack)
        if not states:
            raise ConfigurationError(
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
        raise ConfigurationError(
            f"{name!r} is not a lock file, a clone or a version; write a version as "
            "<mirror>:<id>@<label>, for example dandi:000027@0.210831.2033",
            suggestions=[*error.suggestions, *similar_paths(path)],
        ) from error
    return [state_of_version(settings.store(), row)]


_MAX_SHOWN = 5
"""Maximum number of files named per reason in text output."""

# the same as in lab.export_lock, which is slow to import
_LIST_FORMATS = ("pooch", "sha256sum", "md5sum", "aria2", "curl", "wget", "addurls")


@cli.command(
    "export-lock",
    example="""\
neuromirror export-lock datasets.lock --format sha256sum -o SHA256SUMS
neuromirror export-lock --format pooch -o registry.txt""",
)
@cli.argument(
    "lock",
    type=NamedPath(),
    default=DEFAULT_LOCK,
    metavar="[LOCK]",
    help="A lock file [default: datasets.lock].",
)
@cli.choice_option("--format form", _LIST_FORMATS, "Format of the list.", required=True)
@cli.path_option("-o --output FILE", "New file [default: print the list].")
@cli.settings_options
def export_lock_command(settings: Settings, lock: Path, *, form: str, output: Path | None) -> None:
    """Write the list of pinned files, with URLs and checksums, for another program.

    Paths in the list are those of "neuromirror restore": <mirror>--<id>/<path>. After the other
    program has downloaded the files, check them with "neuromirror verify LOCK --in DIR".

    \b
    pooch      a registry with URLs
    sha256sum  a list for "sha256sum -c"
    md5sum     a list for "md5sum -c", with the files whose checksum is an MD5
    aria2      a list for "aria2c -i"
    curl       a configuration for "curl --parallel --config"
    addurls    a table for "datalad addurls"

    Files that the format cannot hold (no URL, no suitable checksum, an unsuitable name) are listed
    on stderr; the exit code is then 1.
    """
    from neuromirror.lab.export_lock import LockExport, export_lines, export_lock
    from neuromirror.lab.lockfile import load_lock

    if output is None and settings.json:
        raise ConfigurationError(f"specify a file for the {form} list with --output")
    pinned = load_lock(lock)
    if not pinned.datasets:
        raise ConfigurationError(f"{lock} has no pins; add one with 'neuromirror pin'")
    if output is not None:
        export = export_lock(pinned, form, output)
    else:
        export = LockExport()
        print_pieces(export_lines(pinned, form, export))
    _report(settings, form, output, export)
    sys.exit(1 if export.omitted else 0)


def _report(settings: Settings, form: str, output: Path | None, export: LockExport) -> None:
    for reason, count in export.omitted.items():
        paths = export.examples[reason]
        files = "1 file is" if count == 1 else f"{count} files are"
        named = ", ".join(paths[:_MAX_SHOWN]) + (", …" if count > _MAX_SHOWN else "")
        record: dict[str, Any] = {"kind": "omitted", "status": "impossible", "message": reason}
        record |= {"count": count, "paths": paths}
        line = f"{'impossible':<10} {files} not in the {form} list: {reason}: {named}"
        settings.emit("export-lock", record, line)
    if output is None:
        return
    record = {"kind": "list", "format": form, "path": str(output), "files": export.files}
    record |= {"bytes": export.bytes, "omitted": export.omitted.total()}
    files = f"{count_of(export.files, 'file')}, {format_bytes(export.bytes)}"
    settings.emit("export-lock", record, f"{'ok':<10} {output}  {files}")


@cli.command("reproduce", example="neuromirror reproduce dandi:000027@0.210831.2033")
@cli.many("versions", "VERSION...", "Versions, e.g. dandi:000027@0.210831.2033.", required=True)
@cli.path_option(
    "--keep DIR", "Keep the new commits in DIR, a new or empty folder [default: delete them]."
)
@cli.settings_options
def reproduce_command(settings: Settings, versions: tuple[str, ...], *, keep: Path | None) -> None:
    """Create versions again from the archive, without file content, and compare the commits.

    The new commits go to a scratch store. A published version must have the same commit, tree and
    state digest; all published versions before it are created again too. An observed state must
    have the same tree and state digest, if the archive still has it; otherwise the result is
    "impossible" (exit code 1).
    """
    from neuromirror.cli.shapes import VersionName
    from neuromirror.config.mirror_files import find_mirror
    from neuromirror.lab import reproduce
    from neuromirror.model import alias_of
    from neuromirror.store.private_store import is_private_store

    mirrors = settings.mirrors()
    store = settings.store()
    code = 0
    with ExitStack() as stack:
        index = stack.enter_context(settings.index())
        rows = {
            row.name: (row, find_mirror(mirrors, row.mirror))
            for row in (resolve_version(settings, index, name)[1] for name in versions)
        }
        scratch = stack.enter_context(_scratch(keep, private=is_private_store(store.root)))
        for number, (row, mirror) in enumerate(rows.values()):
            name = alias_of(row.name)
            folder = scratch / f"{number + 1:02d}-{name if len(name) <= 200 else row.commit}"
            try:
                with step_line("minting") as progress:
                    found = reproduce(row, store, index, mirror, folder, progress)
            except ConfigurationError:
                raise
            except NeuromirrorError as error:
                failed = {"status": "error", "message": str(error), "minted": None}
                record = {**VersionName.of(row).plain(), **failed}
                settings.emit("reproduce", record, _result_line("error", row.name, str(error)))
                code = 1
                continue
            code = max(code, found.exit_code)
            ids = to_builtins(found)
            for name in ("dataset", "label", "kind"):
                del ids[name]
            kept_folder = None if keep is None else str(folder.absolute())
            record = {**VersionName.of(row).plain(), **ids, "folder": kept_folder}
            settings.emit("reproduce", record, _result_line(found.status, row.name, found.message))
            _print_ids(settings, found)
    sys.exit(code)


@contextmanager
def _scratch(keep: Path | None, *, private: bool) -> Iterator[Path]:
    """Create the folder for the new commits: a temporary one, or ``keep``.

    For a private store, only its owner can read the folder.
    """
    if keep is None:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(prefix="neuromirror-") as folder:
            yield Path(folder)
        return
    from neuromirror.lab.output_files import is_missing_or_empty

    if not is_missing_or_empty(keep):
        raise ConfigurationError(f"--keep {keep}: not an empty folder; use an empty or missing one")
    keep.mkdir(0o700 if private else 0o777, parents=True, exist_ok=True)
    if private:
        keep.chmod(0o700)
    yield keep


def _result_line(status: str, name: str, message: str) -> str:
    # many messages start with the name of the dataset
    dataset = name.partition("@")[0]
    return f"{status:<10} {name}  {message.removeprefix(f'{dataset}: ')}"


def _print_ids(settings: Settings, found: Reproduction) -> None:
    """Print the ids in the store, and the new ones if they differ."""
    if found.exit_code:
        settings.print_text(found.name)
    for field in ("commit", "tree", "state"):
        stored = getattr(found.stored, field)
        reminted = None if found.minted is None else getattr(found.minted, field)
        if found.minted is None or reminted == stored:
            same = "" if found.minted is None else "equal"
        elif field not in found.promised:
            same = "not promised"
        else:
            same = f"now: {reminted}"
        settings.print_text(f"  {field:<6} {stored}  {same}".rstrip())
    for subdataset in found.subdatasets:
        settings.print_text(f"  {subdataset.path}: {subdataset.dataset} differs")
