"""``neuromirror status``, ``check-config`` and ``rebuild-index``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from neuromirror.cli.common import Settings, human_bytes, settings_options

if TYPE_CHECKING:
    from neuromirror.index import MirrorStatus

_FAILING = ("failed", "partial")
_NAMED = 5


@click.command("status")
@settings_options
def status_command(settings: Settings) -> None:
    """Say how each mirror stands.

    Datasets and files, the last visits and those that failed, datasets left to settle, holds,
    incidents, and what upstream was found to allow. Exit code: 0 all well, 1 the last visit of
    some dataset failed, 3 something is held.
    """
    store = settings.store()
    code = shown = 0
    with settings.index() as index:
        for one in index.mirror_status():
            checked = store.last_checked(one.mirror)
            when = "never" if checked is None else checked.isoformat(timespec="seconds")
            settings.emit("status", {**asdict(one), "last_checked": when})
            code = 1 if one.failing else (code or (3 if one.open_holds else 0))
            shown += 1
            if settings.json:
                continue
            failing = [row.name for row in index.datasets(one.mirror) if row.status in _FAILING]
            settings.say(f"{one.mirror}  {one.uri}")
            for head, text in [
                ("datasets", _counted(one)),
                ("content", f"{one.files} files in newest states, {human_bytes(one.bytes)}"),
                ("list read", when),
                ("last visit", one.last_visit or "never"),
                ("last full", one.last_full_visit or "never"),
                ("failing", f"{one.failing}" + (f" ({_some(failing)})" * bool(failing))),
                *[("waiting", f"{one.waiting} (to settle)")] * bool(one.waiting),
                ("held", f"{one.open_holds}" + (" (neuromirror holds)" * bool(one.open_holds))),
                ("incidents", f"{one.incidents}" + (" (neuromirror events)" * bool(one.incidents))),
            ]:
                settings.say(f"  {head:<11} {text}")
            for number, (name, word) in enumerate(one.capabilities.items()):
                settings.say(f"  {'' if number else 'upstream':<11} {name}: {word}")
    if not shown:
        settings.say("nothing is mirrored yet; run 'neuromirror sync'")
    sys.exit(code)


def _counted(mirror: MirrorStatus) -> str:
    parts = f" and {mirror.parts} that are parts of others," if mirror.parts else ""
    return f"{mirror.datasets - mirror.parts}{parts} with {mirror.versions} versions"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f", … {len(names) - _NAMED} more" * (len(names) > _NAMED))


@click.command("check-config")
@settings_options
def check_config_command(settings: Settings) -> None:
    """Check the mirror files.

    No archive is asked. Every file is checked, and every wrong one is named. Exit code: 0 all
    right, 2 something is wrong.
    """
    from neuromirror.crawl import load_mirror, mirror_files
    from neuromirror.model import ConfigurationError

    code = 0
    for path in mirror_files(settings.mirrors_folder):
        try:
            mirror = load_mirror(path)
            source = mirror.open()
        except ConfigurationError as error:
            code = 2
            record = {"path": str(path), "status": "error", "message": str(error)}
            settings.emit("check-config", record, f"error  {error}")
            continue
        record = {
            "path": str(path),
            "mirror": mirror.name,
            "source": mirror.settings.source,
            "uri": source.uri,
        }
        settings.emit(
            "check-config", record, f"ok     {mirror.name}: {record['source']} at {source.uri}"
        )
    sys.exit(code)


@click.command("rebuild-index")
@settings_options
def rebuild_index_command(settings: Settings) -> None:
    """Make the index anew from the store.

    Whatever became of the old one: nothing is lost, and it takes no request to any archive. What
    the mirror files say of the files of Zarrs ([zarr] index_entries) then holds for versions that
    are there already, too; without mirror files all stays as it was.
    """
    from tqdm import tqdm

    from neuromirror.crawl import rebuild_index

    store = settings.store()
    path = settings.index_path(store)
    limits = {}
    # the store alone is enough: mirror files say only what became another setting since
    if any(settings.mirrors_folder.glob("*.toml")):
        limits = {name: one.settings.zarr for name, one in settings.mirrors().items()}
    with tqdm(unit="B", unit_scale=True, disable=None, leave=False, file=sys.stderr) as bar:

        def show(position: int) -> None:
            bar.update(position - bar.n)

        count = rebuild_index(store, path, show, limits)
    settings.emit(
        "rebuild-index",
        {"path": str(path), "entries": count},
        f"rebuilt {path} from {count} journal entries",
    )
