"""``neuromirror clone``, and ``neuromirror get`` of an address."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec.structs import replace

from neuromirror.cli.addresses import find_address, resolve_version
from neuromirror.cli.commands import argument, command, jobs_option
from neuromirror.cli.common import (
    PRIVATE_STORE,
    NamedPath,
    Settings,
    path_from_environment,
    settings_options,
)
from neuromirror.cli.progress_line import ProgressLine
from neuromirror.model.errors import ConfigurationError, NeuromirrorError, UnknownAddressError

if TYPE_CHECKING:
    from neuromirror.config.addresses import Address

_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*:[^@#\s]+")
"""The name of a dataset of any mirror."""


@command(
    "clone",
    example="""\
neuromirror clone dandi:000027 --get sub-RAT123
neuromirror clone https://dandiarchive.org/dandiset/000027/0.210831.2033 data
neuromirror clone https://data.example.org/dataset/dandi:000027""",
)
@argument("address", help="A dataset or version, by name, identifier, DOI or URL.")
@argument(
    "folder",
    required=False,
    type=NamedPath(),
    metavar="[DIR]",
    help="New folder [default: the last part of the id of the dataset].",
)
@click.option(
    "--get",
    "globs",
    metavar="GLOB",
    multiple=True,
    help="Get files that match, e.g. sub-01, sub-*/anat or **/*.nwb. Repeat to get more.",
)
@click.option(
    "--from",
    "base",
    metavar="URL",
    help="Clone from this catalogue or mirror; the archive and the store are not used.",
)
@jobs_option("Number of files fetched in parallel [default: 32].", "-J", most=256)
@settings_options
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
    from neuromirror.cli.get import print_outcomes
    from neuromirror.lab.clone import clone_dataset, get_selected
    from neuromirror.lab.globs import Globs, escape
    from neuromirror.transfer import JOBS

    Globs(globs)  # an invalid glob is an error before the clone
    with ProgressLine() as line:
        found, url = locate_clone(settings, address, base, line)
        target = folder or Path(_last_part(found.dataset))
        chosen = [*globs, *([escape(found.path)] if found.path else [])]
        line.show(f"cloning {found.dataset}")
        message = skipped_remotes_message(
            clone_dataset(url, target, _settings_of(settings, found, url))
        )
        record = {"path": str(target.absolute()), "dataset": found.dataset, "url": url}
        name = f"{found.dataset}@{found.version}" if found.version else found.dataset
        with line.paused():
            settings.emit(
                "clone",
                record | ({"message": message} if message else {}),
                f"ok         {target}  {name}{message and f'; {message}'}",
            )
        code = 0
        if chosen:
            line.show(f"reading {target}")
            code = print_outcomes(
                settings,
                "clone",
                lambda progress: get_selected(
                    target.absolute(), chosen, jobs=jobs or JOBS, progress=progress
                ),
                line,
            )
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
    from neuromirror.store.new_store import remove_if_unused

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
    from neuromirror.lab.clone import CloneFailedError
    from neuromirror.sources import EMBARGOED

    for one in _stores(settings):
        try:
            with one.index() as index:
                found, row = resolve_version(one, index, text)
        except (UnknownDatasetError, UnknownMirrorError):
            continue
        except UnknownVersionError as error:
            raise ConfigurationError(f"{text}: the archive has no such version") from error
        return one.store().root, found, row.label
    if reasons == EMBARGOED:
        reasons += (
            "; data that needs a credential is mirrored only into a private store: see "
            "docs/howto/private.md"
        )
    raise CloneFailedError(f"{text}: nothing was mirrored: {reasons}")


def _find_stored(settings: Settings, text: str) -> tuple[Path, Address, str] | None:
    """Resolve an address, its store and the label of its version; None if no store has it."""
    unknown = None
    for one in _stores(settings):
        try:
            if (stored := _stored(one, text)) is not None:
                return one.store().root, *stored
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
    from neuromirror.cli.get import print_outcomes
    from neuromirror.lab.clone import download
    from neuromirror.store import refuse_relative_symlinks
    from neuromirror.transfer import JOBS

    with ProgressLine() as line:
        found, url = locate_clone(settings, text, None, line)
        target = output or Path(_last_part(found.dataset))
        refuse_relative_symlinks(target)
        target = target.absolute()
        line.show(f"reading {found.dataset}")
        return print_outcomes(
            settings,
            "get",
            lambda progress: download(
                *(url, found.path, target),
                jobs=jobs or JOBS,
                overwrite=overwrite,
                progress=progress,
                settings=_settings_of(settings, found, url),
            ),
            line,
        )


def _settings_of(settings: Settings, found: Address, url: str) -> dict[str, str]:
    """Return the settings of a clone that request private content as the mirror file states.

    A clone of the store of another operator gets none, and neither does one whose mirror file is in
    a folder that the user did not name: it may be from others.
    """
    if settings.given_mirrors is None or not url.startswith("ria+file:"):
        return {}
    mirror = settings.mirrors().get(found.dataset.partition(":")[0])
    return {} if mirror is None else mirror.options().clone_settings()


def _last_part(dataset: str) -> str:
    """Return the last part of the id of a dataset, as the name of a folder."""
    return dataset.rpartition("/")[2].rpartition(":")[2]
