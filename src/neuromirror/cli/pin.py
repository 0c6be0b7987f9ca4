"""``neuromirror pin`` and ``neuromirror outdated``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from neuromirror.cli.common import (
    NamedPath,
    Settings,
    printable,
    settings_options,
    split_version,
)
from neuromirror.cli.restore import progress_line
from neuromirror.model.display import format_bytes
from neuromirror.model.errors import ConfigurationError

if TYPE_CHECKING:
    from neuromirror.index import Index
    from neuromirror.lab import Outcome

DEFAULT_LOCK = Path("datasets.lock")


@click.command("pin")
@click.argument("versions", nargs=-1, metavar="[VERSION]...")
@click.option(
    "-o",
    "--output",
    type=NamedPath(),
    metavar="FILE",
    default=DEFAULT_LOCK,
    show_default=True,
    help="The lock, made if it is missing.",
)
@click.option(
    "--path",
    "paths",
    metavar="GLOB",
    multiple=True,
    help="Pin only what fits: sub-01, sub-*/anat, **/*.nwb (several: what fits any).",
)
@click.option("--whole", is_flag=True, help="Pin all of it again, after an earlier --path.")
@click.option(
    "--bundle/--no-bundle",
    default=None,
    help="Make git bundles beside the lock, from which the datasets can be cloned.",
)
@click.option(
    "--clone",
    "clones",
    metavar="URL",
    multiple=True,
    help="Where others can clone: a store (ria+https://…), or a URL with {alias} or {id} in it.",
)
@click.option(
    "--remove", metavar="DATASET", multiple=True, help="Take the pin of a dataset out of the lock."
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
) -> None:
    """Write versions into a lock, which brings exactly them back.

    VERSION is a name such as dandi:000027@0.210831.2033, as 'neuromirror show' takes it, or the
    folder of a clone, such as ".": then the version that is checked out is pinned, and a warning
    says where the dataset's name alone means another one ("latest" with --json).

    A dataset that is pinned already gets the new version in its old place; its paths, clone URLs
    and whether it has a bundle stay as they are, unless an option says otherwise. Sub-datasets are
    pinned with the version.

    Beside FILE, in FILE.d, stand the manifests (every file with its digest and places) and the
    bundles: they belong to the lock; keep them with it. 'neuromirror restore' brings the datasets
    back.

    Exit code: 0 all is pinned, 1 the store cannot give a version, 2 wrong usage, or a file that is
    no lock.
    """
    from neuromirror.lab.clone_urls import is_per_dataset
    from neuromirror.lab.pin import PinRequest, pin, pin_request_for_clone

    if not versions and not remove:
        raise ConfigurationError("name a VERSION to pin, or a dataset to --remove")
    if paths and whole:
        raise ConfigurationError("--path pins a part and --whole all of it; give one of them")
    one_for_all = [url for url in clones if not is_per_dataset(url)]
    if one_for_all and len(versions) > 1:
        raise ConfigurationError(
            f"{one_for_all[0]} cannot be the clone URL of {len(versions)} datasets; put {{alias}} "
            "or {id} where they differ, name a store (ria+https://…), or pin one at a time"
        )
    globs = () if whole else paths or None

    def pin_request(name: str, index: Index) -> PinRequest:
        if Path(name).is_dir():
            return pin_request_for_clone(Path(name), index, globs, clones or None, bundle)
        return PinRequest(*split_version(name), globs, clones or None, bundle)

    with settings.index() as index, progress_line("pinning") as progress:
        store = settings.store()
        requests = [pin_request(name, index) for name in versions]
        outcomes = list(pin(output, requests, store, index, remove=remove, progress=progress))
    for outcome in outcomes:
        settings.emit("pin", outcome.to_json(), _outcome_line(outcome))
        if outcome.latest is not None:
            warning = (
                f"neuromirror: warning: {outcome.dataset}@{outcome.version} is checked out and "
                f"pinned, but {outcome.dataset} means {outcome.latest}"
            )
            click.echo(printable(warning), err=True)


@click.command("outdated")
@click.argument("lock", type=NamedPath(), default=DEFAULT_LOCK, metavar="[LOCK]")
@settings_options
def outdated_command(settings: Settings, lock: Path) -> None:
    """Tell which pins of a LOCK have newer versions in the store.

    LOCK is datasets.lock unless another is named. A pin of a draft is compared with the draft as
    last seen, any other with the newest published version, or where nothing is published, with
    the newest seen. With --json, status 'ok' is a pin that can be brought up to date, 'notneeded'
    one that is the newest.

    Exit code: 0 all could be compared, 1 the store does not know a dataset or a version, 2 a file
    that is no lock.
    """
    from neuromirror.lab import tally
    from neuromirror.lab.lockfile import load_lock
    from neuromirror.lab.outdated import find_outdated

    with settings.index() as index:
        outcomes = list(find_outdated(load_lock(lock), index))
    for outcome in outcomes:
        status = {"ok": "newer", "notneeded": "newest"}.get(outcome.status, outcome.status)
        line = f"{status:<10} {outcome.path}  {outcome.message}"
        settings.emit("outdated", outcome.to_json(), line)
    sys.exit(tally(outcomes).exit_code)


def _outcome_line(outcome: Outcome) -> str:
    size = "" if outcome.size is None else f", {format_bytes(outcome.size)}"
    return f"{outcome.status:<10} {outcome.path}  {outcome.message}{size}"
