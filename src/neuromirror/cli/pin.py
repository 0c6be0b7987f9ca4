"""``neuromirror pin`` and ``neuromirror outdated``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from neuromirror.cli.addresses import DEFAULT_LOCK, refuse_address, resolve_version
from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import (
    NamedPath,
    Settings,
    printable,
    settings_options,
)
from neuromirror.cli.progress_line import step_line
from neuromirror.model.errors import ConfigurationError

if TYPE_CHECKING:
    from neuromirror.index import Index
    from neuromirror.lab import Outcome
    from neuromirror.lab.pin import CataloguePins


@command(
    "pin",
    example="""\
neuromirror pin dandi:000027@0.210831.2033
neuromirror pin dandi:000027 --path 'sub-01/*' --bundle
neuromirror pin https://data.example.org/dataset/dandi:000027@0.210831.2033
neuromirror pin --remove dandi:000027""",
)
@argument(
    "versions",
    nargs=-1,
    metavar="[VERSION]...",
    help="Versions, e.g. dandi:000027@draft (without a label, the latest; mirror them first), "
    "pages of a catalogue, or folders of clones, whose checked-out version is pinned.",
)
@click.option(
    "-o",
    "--output",
    type=NamedPath(),
    metavar="FILE",
    default=DEFAULT_LOCK,
    show_default=True,
    help="Lock file; it is created if it does not exist.",
)
@click.option(
    "--path",
    "paths",
    metavar="GLOB",
    multiple=True,
    help="Pin only files or folders (with all files below) that match, e.g. sub-01, sub-*/anat or "
    "**/*.nwb; * does not match a slash. Repeat to pin more. The paths of an earlier pin are "
    "replaced.",
)
@click.option(
    "--whole",
    is_flag=True,
    help="Remove the --path limits of an earlier pin: pin the whole dataset.",
)
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
@click.option(
    "--clone",
    "clones",
    metavar="URL",
    multiple=True,
    help="URL for others to clone from: a store (ria+https://…), or a URL with {alias} "
    "(dandi--000027) or {id} (000027).",
)
@click.option(
    "--remove",
    metavar="DATASET",
    multiple=True,
    help="Remove the pin of this dataset from the lock file.",
)
@settings_options
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
        settings.emit("pin", outcome.to_json(), _outcome_line(outcome))
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
    from neuromirror.cli.clone import is_stored
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


@command("outdated", example="neuromirror outdated datasets.lock")
@argument(
    "lock",
    type=NamedPath(),
    default=DEFAULT_LOCK,
    metavar="[LOCK]",
    help="A lock file [default: datasets.lock].",
)
@click.option("--exit-code", is_flag=True, help="Exit with 4 if a pin has a newer version.")
@settings_options
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


def _outcome_line(outcome: Outcome) -> str:
    return f"{outcome.status:<10} {outcome.path}  {outcome.message}"
