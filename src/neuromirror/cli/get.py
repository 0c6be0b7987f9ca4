"""Commands for content: clone, get, cache and export."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec.structs import replace

from neuromirror.cli import commands as cli
from neuromirror.cli.addresses import find_address, may_be_address, resolve_version
from neuromirror.cli.common import (
    PRIVATE_STORE,
    HostMessages,
    NamedPath,
    ProgressLine,
    Settings,
    outcome_text,
    path_from_environment,
    printable,
    progress_bar,
    size_of_option,
)
from neuromirror.model.errors import (
    ConfigurationError,
    NeuromirrorError,
    UnknownAddressError,
    count_of,
    format_bytes,
)

if TYPE_CHECKING:
    from neuromirror.cache import PieceCache
    from neuromirror.config.addresses import Address
    from neuromirror.lab import Outcome, Tally

_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*:[^@#\s]+")
"""The name of a dataset of any mirror."""


@cli.command(
    "clone",
    example="""\
neuromirror clone dandi:000027 --get sub-RAT123
neuromirror clone https://dandiarchive.org/dandiset/000027/0.210831.2033 data
neuromirror clone https://data.example.org/dataset/dandi:000027""",
)
@cli.argument("address", help="A dataset or version, by name, identifier, DOI or URL.")
@cli.argument(
    "folder",
    required=False,
    type=NamedPath(),
    metavar="[DIR]",
    help="New folder [default: the last part of the id of the dataset].",
)
@cli.repeatable(
    "--get globs GLOB",
    "Get files that match, e.g. sub-01, sub-*/anat or **/*.nwb. Repeat to get more.",
)
@cli.option(
    "--from base URL",
    "Clone from this catalogue or mirror; the archive and the store are not used.",
)
@cli.jobs_option("Number of files fetched in parallel [default: 32].", "-J", most=256)
@cli.settings_options
def clone_command(
    settings: Settings,
    address: str,
    folder: Path | None,
    globs: tuple[str, ...],
    base: str | None,
    jobs: int | None,
) -> None:
    """Clone a version with DataLad, mirroring it first if the store lacks it.

    The URL of a page of a catalogue needs no store. The file or folder in the address and the files
    that --get selects are fetched; other content stays at the archive.
    """
    from neuromirror.annex import skipped_remotes_message
    from neuromirror.lab.clone import clone_dataset, get_selected
    from neuromirror.lab.globs import Globs, escape
    from neuromirror.transfer import JOBS

    Globs(globs)  # an invalid glob is an error before the clone
    with ProgressLine() as line:
        found, url = locate_clone(settings, address, base, line)
        target = folder or Path(_last_part(found.dataset))
        chosen = [*globs, *([escape(found.path)] if found.path else [])]
        line.show(f"cloning {found.dataset}")
        message = skipped_remotes_message(clone_dataset(url, target))
        record = {"path": str(target.absolute()), "dataset": found.dataset, "url": url}
        record |= {"message": message} if message else {}
        name = f"{found.dataset}@{found.version}" if found.version else found.dataset
        text = f"ok         {target}  {name}{message and f'; {message}'}"
        with line.paused():
            settings.emit("clone", record, text)
        code = 0
        if chosen:
            line.show(f"reading {target}")
            outcomes = get_selected(
                *(target.absolute(), chosen),
                jobs=jobs or JOBS,
                progress=line.show_bytes,
                settings=_settings_of(settings, found, url),
            )
            code = print_outcomes(settings, "clone", outcomes, line)
    sys.exit(code)


def locate_clone(
    settings: Settings, text: str, base: str | None, line: ProgressLine
) -> tuple[Address, str]:
    """Resolve an address, and return the URL to clone from.

    If the dataset is missing in the store, the URL of a catalogue page is cloned from that
    catalogue, and any other dataset is synced.
    """
    from neuromirror.config.addresses import catalogue_page
    from neuromirror.lab.clone import remote_url, store_url
    from neuromirror.model import alias_of

    if base is not None:
        try:
            found = find_address(settings, text)
        except UnknownAddressError:
            # a remote mirror may have names for which there is no mirror file here
            named = _named_elsewhere(text)
            if named is None:
                raise
            found = named
        return found, remote_url(base, alias_of(found.dataset), found.version)
    stored = _find_stored(settings, text)
    if stored is None and (page := catalogue_page(text)) is not None:
        base, found = page
        label = None if found.label == "latest" else found.version
        return found, remote_url(base, alias_of(found.dataset), label)
    if stored is None:
        dataset = find_address(settings, text).dataset
        with _no_unused_store(settings):
            reasons = _sync(settings, dataset, line)
            stored = _synced(settings, text, reasons)
    root, found, label = stored
    named = replace(found, version=label)
    return named, store_url(root, alias_of(found.dataset), label)


@contextmanager
def _no_unused_store(settings: Settings) -> Iterator[None]:
    """Remove the store if the block creates it and then fails before a dataset is mirrored."""
    from neuromirror.store.store import remove_if_unused

    is_new = not settings.store_folder.exists()
    try:
        yield
    except (NeuromirrorError, SystemExit):
        if is_new and settings.store_folder.exists():
            remove_if_unused(settings.store())
        raise


def _stores(settings: Settings) -> Iterator[Settings]:
    """Yield the settings for the store, and for the private store if there is one."""
    from neuromirror.store.private_store import is_private_store

    yield settings
    private = path_from_environment(PRIVATE_STORE)
    if private is not None and is_private_store(private):
        yield replace(settings, given_store=private)


def _named_elsewhere(text: str) -> Address | None:
    """Parse the name of a dataset of a mirror that has no mirror file here."""
    from neuromirror.config.addresses import Address

    name, at, label = text.partition("@")
    if not _NAME.fullmatch(name) or "://" in text or (at and not label):
        return None
    return Address(name, label or None)


def _synced(settings: Settings, text: str, reasons: str) -> tuple[Path, Address, str]:
    """Resolve an address, its store and the label of its version, after a sync."""
    from neuromirror.index import UnknownDatasetError, UnknownMirrorError, UnknownVersionError
    from neuromirror.sources import EMBARGOED

    for store in _stores(settings):
        try:
            with store.index() as index:
                found, row = resolve_version(store, index, text)
        except (UnknownDatasetError, UnknownMirrorError):
            continue
        except UnknownVersionError as error:
            raise ConfigurationError(f"{text}: the archive has no such version") from error
        return store.store().root, found, row.label
    if reasons == EMBARGOED:
        reasons += (
            "; data that needs a credential is mirrored only into a private store: see "
            "docs/howto/private.md"
        )
    raise NeuromirrorError(f"{text}: nothing was mirrored: {reasons}")


def _find_stored(settings: Settings, text: str) -> tuple[Path, Address, str] | None:
    """Resolve an address, its store and the label of its version; None if no store has it."""
    unknown = None
    for store in _stores(settings):
        try:
            if (stored := _stored(store, text)) is not None:
                return store.store().root, *stored
        except UnknownAddressError as error:
            unknown = unknown or error
    if unknown is not None:
        raise unknown
    return None


def _stored(settings: Settings, text: str) -> tuple[Address, str] | None:
    """Resolve an address and the label of its version; None if the store lacks it."""
    from neuromirror.index import (
        DatasetWithdrawnError,
        IndexMissingError,
        UnknownDatasetError,
        UnknownMirrorError,
        UnknownVersionError,
    )
    from neuromirror.store import NotAStoreError

    try:
        with settings.index() as index:
            # an unknown address is an error, with the names in the index as suggestions
            find_address(settings, text, index)
            try:
                found, row = resolve_version(settings, index, text)
            except UnknownAddressError:  # a version similar to one that the archive may have
                return None
    except DatasetWithdrawnError:
        raise
    except (
        IndexMissingError,
        NotAStoreError,
        UnknownDatasetError,
        UnknownMirrorError,
        UnknownVersionError,
    ):
        return None
    return found, row.label


def is_stored(settings: Settings, text: str) -> bool:
    """Return whether the store has the version that an address names."""
    try:
        return _stored(settings, text) is not None
    except UnknownAddressError:
        return False


def _sync(settings: Settings, dataset: str, line: ProgressLine) -> str:
    """Mirror a dataset; exit with the code of the sync if it failed, else return its messages."""
    from neuromirror.cli.sync import sync_dataset, worst_exit_code

    line.show(f"mirroring {dataset}")
    results = sync_dataset(settings, dataset, line)
    code = 0
    for result in results:
        code = worst_exit_code(code, result.exit_code)
    if code:
        sys.exit(code)
    return "; ".join(result.message for result in results)


def get_address(
    settings: Settings, text: str, output: Path | None, jobs: int | None, *, overwrite: bool
) -> int:
    """Run ``neuromirror get ADDRESS``: write the files of a version into a folder, without a clone.

    Returns
    -------
    int
        The exit code.
    """
    from neuromirror.lab.clone import download
    from neuromirror.store import refuse_relative_symlinks
    from neuromirror.transfer import JOBS

    with ProgressLine() as line:
        found, url = locate_clone(settings, text, None, line)
        target = output or Path(_last_part(found.dataset))
        refuse_relative_symlinks(target)
        target = target.absolute()
        line.show(f"reading {found.dataset}")
        outcomes = download(
            *(url, found.path, target),
            jobs=jobs or JOBS,
            overwrite=overwrite,
            progress=line.show_bytes,
            settings=_settings_of(settings, found, url),
        )
        return print_outcomes(settings, "get", outcomes, line)


def _settings_of(settings: Settings, found: Address, url: str) -> dict[str, str]:
    """Return settings of git that request private content as the mirror file states.

    For the store of another operator there are none, and neither are there if the mirror file is in
    a folder that the user did not name: it may be from others.
    """
    if settings.given_mirrors is None or not url.startswith("ria+file:"):
        return {}
    mirror = settings.mirrors().get(found.dataset.partition(":")[0])
    return {} if mirror is None else mirror.options().clone_settings()


def _last_part(dataset: str) -> str:
    """Return the last part of the id of a dataset, as the name of a folder."""
    return dataset.rpartition("/")[2].rpartition(":")[2]


_MAX_SHOWN: Final = 20
"""Maximum number of files with the same message in text output; --json prints all."""


@cli.command(
    "get",
    example="""\
neuromirror get sub-01
neuromirror get -r -J 64 .
neuromirror get dandi://dandi/000027@draft/sub-RAT123/ --into rats""",
)
@cli.many(
    "paths",
    "[PATH | ADDRESS]...",
    "Files or folders of a clone [default: the current folder], or the address of a version.",
    type=NamedPath(path_type=str),
)
@cli.flag("-r --recursive", "Get the files of subdatasets too.")
@cli.jobs_option("Number of files fetched in parallel [default: 32].", "-J", most=256)
@cli.path_option(
    "--into output DIR",
    "For an ADDRESS: folder for the files [default: the last part of the id of the dataset].",
)
@cli.flag(
    "--overwrite",
    "For an ADDRESS: replace existing files with different content [default: an error].",
)
@cli.settings_options
def get_command(
    settings: Settings,
    paths: tuple[str, ...],
    jobs: int | None,
    output: Path | None,
    *,
    recursive: bool,
    overwrite: bool,
) -> None:
    """Get the content of files in a clone, or the files of a version without a clone.

    A PATH that does not exist and is an address (a name, identifier, DOI or URL) names a version,
    which is mirrored first if the store lacks it. Its files are put into a folder as plain files.
    Existing files are hashed and kept; those with different content are errors, or replaced with
    --overwrite.

    The clone can be of any git-annex dataset. The URLs of each file are tried in order; wrong
    content is discarded. Files are stored and recorded as by git-annex, which itself gets those
    without a usable URL. Interrupted downloads of large files are resumed. A repository that was
    received as files, not cloned, is refused if its configuration or hooks run programs.
    """
    from neuromirror.transfer import JOBS, get

    here = Path.cwd()
    is_outside = not _is_in_repository(here) and not any(map(os.path.lexists, paths))
    needs_address = output is not None or overwrite
    addresses = [
        text
        for text in paths
        if not os.path.lexists(text)
        and (
            needs_address
            or ((may_be_address(text) or is_outside) and not _is_below_folder_of_clone(text))
        )
    ]
    if addresses and len(addresses) == len(paths):
        try:
            codes = [
                get_address(settings, text, output, jobs, overwrite=overwrite) for text in addresses
            ]
        except UnknownAddressError as error:
            if needs_address or may_be_address(addresses[0]):
                raise
            # it may have been the path of a file in a clone
            raise UnknownAddressError(
                f"{here} is not inside a clone of a dataset, and {error.problem}", error.suggestions
            ) from error
        sys.exit(max(codes))
    if addresses and not needs_address:
        raise ConfigurationError(
            f"{addresses[0]} does not exist and looks like an address; "
            "use either addresses or paths of a clone"
        )
    if needs_address:
        option = "--overwrite" if output is None else "--into"
        raise ConfigurationError(
            f"{option} is for addresses; paths of a clone are fetched in place"
        )
    chosen = [here / path for path in paths] or [here]
    start = here
    if not _is_in_repository(here):
        # a path can lead into a clone from outside
        start = chosen[0] if chosen[0].is_dir() else chosen[0].parent
    with ProgressLine() as line:
        show = line.show_bytes
        outcomes = get(start, chosen, recursive=recursive, jobs=jobs or JOBS, progress=show)
        code = print_outcomes(settings, "get", outcomes, line)
    sys.exit(code)


def _is_below_folder_of_clone(text: str) -> bool:
    """Return whether a missing path is below a folder of a clone, such as a missing subdataset."""
    folder = next(parent for parent in Path(text).parents if parent.exists())
    return folder != Path() and _is_in_repository(folder.absolute())


def _is_in_repository(folder: Path) -> bool:
    return any((one / ".git").exists() for one in (folder, *folder.parents))


def print_outcomes(
    settings: Settings, action: str, outcomes: Iterable[Outcome], line: ProgressLine
) -> int:
    """Print the outcomes of files, with their progress; return the exit code."""
    from neuromirror.lab import Tally
    from neuromirror.transfer.clone_get import IN_GIT

    counted = Tally()
    received = in_git = 0
    hosts = HostMessages()
    same: Counter[str] = Counter()
    for outcome in outcomes:
        counted.add(outcome)
        received += (outcome.size or 0) * (outcome.status == "ok")
        in_git += outcome.message == IN_GIT
        shown = outcome.status != "notneeded" and hosts.is_first(outcome)
        if outcome.failed and outcome.host is None:
            same[outcome.message] += 1
            shown = same[outcome.message] <= _MAX_SHOWN
        text = f"{outcome.status:<10} {outcome.path}"
        if outcome.failed:
            text = f"{outcome.status:<10} {outcome_text(outcome)}"
        elif outcome.size is not None:
            text += f"  {format_bytes(outcome.size)}"
        if not outcome.failed and outcome.checked == "checked" and outcome.evidence:
            text += f"  {outcome.evidence}"
        with line.paused():
            settings.emit(action, {**outcome.to_json(), "action": action}, text if shown else None)
    line.close()
    hosts.print_counts(action, settings)
    for message, count in same.items():
        if count > _MAX_SHOWN:
            more = f"error      {count - _MAX_SHOWN} more files  {message}"
            click.echo(printable(more), err=True)
    settings.print_text(_summary(counted, received, in_git))
    return counted.exit_code


def _summary(counted: Tally, received: int, in_git: int) -> str:
    fetched, present = counted.statuses["ok"], counted.statuses["notneeded"] - in_git
    failed = counted.statuses["error"] + counted.statuses["impossible"]
    parts = [f"{fetched} fetched, {format_bytes(received)}"] if fetched else []
    if present:
        parts.append(f"{present} already present")
    if in_git:
        parts.append(f"{in_git} already present, in git")
    if failed:
        parts.append(f"{failed} failed")
    return ", ".join(parts) or "no annexed files to get; files in git are in each clone"


@cli.command(
    "cache",
    example="""\
neuromirror cache
neuromirror cache add datasets.lock 'sub-01/**/*.nwb'
neuromirror cache prune --size 2GB""",
)
@cli.argument(
    "action",
    type=click.Choice(["show", "add", "prune", "clear"]),
    metavar="[show|add|prune|clear]",
    default="show",
    help="show: print folder and size (default); add: read files of VERSION into the cache; prune: "
    "remove the least recently used files; clear: remove all.",
)
@cli.argument(
    "target",
    required=False,
    metavar="[VERSION|LOCK|DIR]",
    help="For add: a version in the store, a lock file or the folder of a clone.",
)
@cli.globs_argument("For add: files or folders, as for 'neuromirror pin --path' [default: all].")
@cli.option("--size SIZE", "For prune: the cache's size afterwards [default: the limit].")
@cli.jobs_option("For add: number of files read in parallel [default: 4].")
@cli.settings_options
def cache_command(
    settings: Settings,
    action: str,
    target: str | None,
    globs: tuple[str, ...],
    *,
    size: str | None,
    jobs: int | None,
) -> None:
    """Show, fill or empty the cache of verified content on this machine.

    neuromirror.open, fsspec and Zarr stores keep verified pieces in the cache; "neuromirror get",
    and git-annex in clones, take whole files from it. NEUROMIRROR_CACHE names the folder, or is
    "off"; NEUROMIRROR_CACHE_SIZE is the limit, such as 50GB [default: 10 GiB, or a tenth of the
    disk if that is less], above which the least recently used files are removed.
    """
    from neuromirror.cache import open_cache

    _check_usage(action, target, size, jobs)
    cache = open_cache()
    if cache is None:
        if action != "show":
            raise ConfigurationError(
                "the cache is switched off; set NEUROMIRROR_CACHE and NEUROMIRROR_CACHE_SIZE"
            )
        settings.emit("cache", {"folder": None}, "the cache is switched off")
    elif action == "add":
        assert target is not None
        sys.exit(_add(settings, cache, target, globs, jobs))
    elif action == "show":
        _show(settings, cache)
    else:
        _remove(settings, cache, action, size)


def _check_usage(action: str, target: str | None, size: str | None, jobs: int | None) -> None:
    if (action == "add") != (target is not None):
        raise ConfigurationError(
            "specify what to add: neuromirror cache add VERSION|LOCK|DIR [GLOB]..."
            if target is None
            else f"'{action}' takes no further arguments; write: neuromirror cache {action}"
        )
    if size is not None and action != "prune":
        raise ConfigurationError(f"--size is for prune; leave it out with '{action}'")
    if jobs is not None and action != "add":
        raise ConfigurationError(f"--jobs is for add; leave it out with '{action}'")


def _show(settings: Settings, cache: PieceCache) -> None:
    sizes = [entry.stored for entry in cache.entries()]
    record = {"folder": str(cache.folder), "limit": cache.limit}
    record |= {"contents": len(sizes), "bytes": sum(sizes)}
    used = f"{format_bytes(sum(sizes))} of {format_bytes(cache.limit)}"
    line = f"{cache.folder}: {count_of(len(sizes), 'content')}, {used}"
    settings.emit("cache", record, line)


def _remove(settings: Settings, cache: PieceCache, action: str, size: str | None) -> None:
    limit = None if size is None else size_of_option("--size", size)
    try:
        removed, freed = cache.clear() if action == "clear" else cache.prune(limit, wait=True)
    except OSError as error:
        raise NeuromirrorError(
            f"{error.filename or cache.folder} cannot be removed from the cache: {error.strerror}"
        ) from error
    record = {"folder": str(cache.folder), "removed": removed, "bytes": freed}
    line = f"{count_of(removed, 'content')} removed, {format_bytes(freed)} freed"
    settings.emit("cache", record, line)


def _add(
    settings: Settings, cache: PieceCache, target: str, globs: tuple[str, ...], jobs: int | None
) -> int:
    """Fill the cache; return the exit code."""
    from neuromirror.stream import open_tree
    from neuromirror.stream.opening import JOBS, fill_cache

    counts: Counter[str] = Counter()
    stored = 0
    tree = open_tree(target, store=settings.store_folder)
    try:
        for outcome in fill_cache(tree, globs, cache, jobs=jobs or JOBS):
            counts[outcome.status] += 1
            stored += (outcome.size or 0) if outcome.status == "ok" else 0
            line = f"{outcome.status:<10} {outcome.path}  {outcome.message}".rstrip()
            is_shown = outcome.status != "notneeded"
            settings.emit("cache", outcome.to_json(), line if is_shown else None)
    finally:
        tree.close()
    failed = counts["error"] + counts["impossible"]
    if not counts:
        raise ConfigurationError(
            f"{target}: no annexed file matches; 'neuromirror files' lists the files"
        )
    if not settings.json:
        settings.print_text(
            f"{count_of(counts['ok'], 'file')} added ({format_bytes(stored)}), "
            f"{counts['notneeded']} there before, {failed} failed"
        )
    return 1 if failed else 0


_VOXEL_FORMATS = ("tiff", "zarr", "npy")
_KERCHUNK = "kerchunk"


@cli.command(
    "export",
    example="""\
neuromirror export bossdb:coll/exp/chan --box 0:512,0:512,0:16 -o cutout""",
)
@cli.argument(
    "version",
    help="A version of a volume, e.g. bossdb:coll/exp/chan, or a clone's folder; for kerchunk "
    "any version.",
)
@cli.option(
    "--box X0:X1,Y0:Y1,Z0:Z1",
    "Region in voxels of the level, upper bounds exclusive, in the coordinates of the "
    "archive, which need not start at 0 [default: the whole volume].",
)
@cli.option(
    "--level N", "Resolution level, numbered as at the archive; 0 is the finest.", default=0
)
@click.option(
    "--time",
    type=int,
    metavar="T",
    help="Index of the time sample, as at the archive; required for a time series.",
)
@cli.choice_option(
    "--format",
    (*_VOXEL_FORMATS, _KERCHUNK),
    "One TIFF per z-slice, an OME-Zarr, one NumPy array, or references to the chunks of Zarrs "
    "(kerchunk).",
    default="tiff",
)
@cli.option(
    "--path inner PATH",
    "For kerchunk: Zarr or folder in the version [default: the whole version].",
    default="",
)
@cli.path_option(
    "-o --output PATH", "Folder for the files; for kerchunk, the JSON file.", required=True
)
@cli.settings_options
def export_command(
    settings: Settings,
    version: str,
    *,
    box: str | None,
    level: int,
    time: int | None,
    format: str,
    inner: str,
    output: Path,
) -> None:
    """Export a region of a volume, or references to the chunks of Zarrs.

    The blocks are fetched from their service, or in a clone by git-annex, and checked. The same
    region of the same state gives the same bytes, if all its files have checksums. Run an
    interrupted export again with the same folder to resume it. With --format kerchunk, the result
    is a JSON file with references to the pinned objects of Zarrs, for fsspec and xarray, which do
    not verify checksums.
    """
    if format == _KERCHUNK:
        _export_references(settings, version, inner, output)
        return
    from neuromirror.volume import export, parse_box

    if inner:
        raise click.UsageError("--path is for the format kerchunk")
    with ProgressLine() as line:
        made = export(
            version,
            output,
            box=None if box is None else parse_box(box),
            level=level,
            format=format,
            time=time,
            store=settings.store_folder,
            index=settings.index_file,
            progress=line.show_bytes,
        )
    status = "notneeded" if made.unchanged == len(made.paths) else "ok"
    fields = ("version", "state", "level", "box", "time", "format", "unchanged", "bytes")
    record = {"status": status, **{name: getattr(made, name) for name in fields}}
    record |= {"path": str(made.folder.absolute()), "files": len(made.paths)}
    files = count_of(len(made.paths), "file")
    unchanged = f", {made.unchanged} of them unchanged" if made.unchanged else ""
    summary = f"{files}, {format_bytes(made.bytes)} of voxels, in {made.folder}{unchanged}"
    settings.emit("export", record, f"{status:<10} {made.version}  {summary}")


def _export_references(settings: Settings, version: str, inner: str, output: Path) -> None:
    """Write references, and report them."""
    from neuromirror.stream import export_references

    with progress_bar(unit=" chunks") as bar:
        made = export_references(
            version,
            output,
            inner,
            store=settings.store_folder,
            progress=lambda count: bar.update(count - bar.n),
        )
    fields = ("version", "references", "included", "unversioned")
    record = {"status": "ok", **{name: getattr(made, name) for name in fields}}
    record |= {"format": "kerchunk", "path": str(made.path.absolute())}
    line = f"{'ok':<10} {made.version}  {made.references} references, in {made.path}"
    settings.emit("export", record, line)
    if made.unversioned:
        settings.print_text(
            f"{made.unversioned} references have no object version: if the archive replaces these "
            "objects, other bytes are read"
        )
