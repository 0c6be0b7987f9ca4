"""``neuromirror cache``."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

import click

from neuromirror.cli.commands import argument, command, globs_argument, jobs_option
from neuromirror.cli.common import Settings, settings_options
from neuromirror.model.errors import ConfigurationError, NeuromirrorError, count_of, format_bytes

if TYPE_CHECKING:
    from neuromirror.cache import PieceCache


@command(
    "cache",
    example="""\
neuromirror cache
neuromirror cache add datasets.lock 'sub-01/**/*.nwb'
neuromirror cache prune --size 2GB""",
)
@argument(
    "action",
    type=click.Choice(["show", "add", "prune", "clear"]),
    metavar="[show|add|prune|clear]",
    default="show",
    help="show: print folder and size (default); add: read files of VERSION into the cache; prune: "
    "remove the least recently used files; clear: remove all.",
)
@argument(
    "target",
    required=False,
    metavar="[VERSION|LOCK|DIR]",
    help="For add: a version in the store, a lock file or the folder of a clone.",
)
@globs_argument("For add: files or folders, as for 'neuromirror pin --path' [default: all].")
@click.option(
    "--size", metavar="SIZE", help="For prune: the cache's size afterwards [default: the limit]."
)
@jobs_option("For add: number of files read in parallel [default: 4].")
@settings_options
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
    contents = stored = 0
    for entry in cache.entries():
        contents += 1
        stored += entry.stored
    record = {
        **{"folder": str(cache.folder), "limit": cache.limit},
        **{"contents": contents, "bytes": stored},
    }
    settings.emit(
        "cache",
        record,
        f"{cache.folder}: {count_of(contents, 'content')}, {format_bytes(stored)} of "
        f"{format_bytes(cache.limit)}",
    )


def _remove(settings: Settings, cache: PieceCache, action: str, size: str | None) -> None:
    from neuromirror.cache import parse_size

    limit: int | None = -1
    if action == "prune":
        try:
            limit = None if size is None else parse_size(size)
        except ValueError as error:
            raise ConfigurationError(f"--size: {error}") from None
    try:
        removed, freed = cache.clear() if action == "clear" else cache.prune(limit, wait=True)
    except OSError as error:
        raise NeuromirrorError(
            f"{error.filename or cache.folder} cannot be removed from the cache: {error.strerror}"
        ) from error
    settings.emit(
        "cache",
        {"folder": str(cache.folder), "removed": removed, "bytes": freed},
        f"{count_of(removed, 'content')} removed, {format_bytes(freed)} freed",
    )


def _add(
    settings: Settings,
    cache: PieceCache,
    target: str,
    globs: tuple[str, ...],
    jobs: int | None,
) -> int:
    """Fill the cache; return the exit code."""
    from neuromirror.stream import open_tree
    from neuromirror.stream.cache_filling import JOBS, fill_cache

    counts: Counter[str] = Counter()
    stored = 0
    tree = open_tree(target, store=settings.store_folder)
    try:
        for outcome in fill_cache(tree, globs, cache, jobs=jobs or JOBS):
            counts[outcome.status] += 1
            stored += (outcome.size or 0) if outcome.status == "ok" else 0
            line = f"{outcome.status:<10} {outcome.path}  {outcome.message}".rstrip()
            settings.emit(
                "cache", outcome.to_json(), None if outcome.status == "notneeded" else line
            )
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
