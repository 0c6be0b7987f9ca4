"""``neuromirror status``, ``check-config`` and ``rebuild-index``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from neuromirror.cli.common import Settings, settings_options
from neuromirror.model.shown import human_bytes

if TYPE_CHECKING:
    from neuromirror.index import FailureRow, MirrorStatus
    from neuromirror.service.standing import Agenda

_NAMED = 5


@click.command("status")
@settings_options
def status_command(settings: Settings) -> None:
    """Say how each mirror stands.

    Datasets and files, how long ago its list was read and a visit came to its end, everything that
    failed and has not succeeded since (lists, visits, superdatasets, housekeeping, backups, audits,
    the service itself), datasets left to settle, holds, incidents, what was taken down, places that
    no longer have what was mirrored (as "neuromirror audit" found), and what upstream was found to
    allow; where a service runs on the store, what is under way and what comes next. --json has a
    record for each mirror and one, with status "error", for each failure. Exit code: 0 all well,
    1 something fails or something of the store is broken or cannot be written, 3 something is held.
    """
    from neuromirror.service.standing import agenda_of, broken_in, unwritable_in

    store = settings.store()
    code = 0
    shown: set[str] = set()
    agenda = agenda_of(store)
    with settings.index() as index:
        failures = index.failures()
        ailing = index.ailing()
        for one in index.mirror_status():
            checked = store.last_checked(one.mirror)
            when = "never" if checked is None else checked.isoformat(timespec="seconds")
            said = ailing.get(one.mirror, {})
            down = [stone.dataset for stone in index.withheld(one.mirror) if not stone.within]
            todo = agenda.get(one.mirror)
            record = {**asdict(one), "last_checked": when, "places": said, "taken_down": down}
            settings.emit("status", {**record, "schedule": None if todo is None else asdict(todo)})
            code = code or (3 if one.open_holds else 0)
            shown.add(one.mirror)
            if settings.json:
                continue
            own = [row for row in failures if row.mirror == one.mirror]
            gone = [row.name for row in index.datasets(one.mirror) if row.gone] if one.gone else []
            for line in _mirror(one, when, own, gone, down, said, todo):
                settings.say(line)
    if not shown:
        settings.say("nothing is mirrored yet; run 'neuromirror sync'")
    for failure in failures:
        code = 1
        record = {**asdict(failure), "status": "error"}
        shown_text = None if failure.mirror in shown else f"failed  {_failure(failure)}"
        settings.emit("status", record, shown_text)
    for message in (*broken_in(store), *unwritable_in(store)):
        code = 1
        record = {"status": "error", "path": str(store.root), "message": message}
        settings.emit("status", record, f"broken  {message}")
    sys.exit(code)


def _mirror(
    one: MirrorStatus,
    when: str,
    own: list[FailureRow],
    gone: list[str],
    down: list[str],
    said: dict[str, int],
    todo: Agenda | None,
) -> Iterator[str]:
    """Yield the lines about a mirror; ``own`` are its failures."""
    from neuromirror.service.standing import ago

    failing = [row.dataset for row in own if row.task == "visit" and row.dataset]
    yield f"{one.mirror}  {one.uri}"
    for head, text in [
        ("datasets", _counted(one)),
        ("content", f"{one.files} files in latest versions, {human_bytes(one.bytes)}"),
        ("list read", when + ago(when)),
        ("last visit", (one.last_visit or "never") + ago(one.last_visit)),
        ("last full", (one.last_full_visit or "never") + ago(one.last_full_visit)),
        ("failing", f"{one.failing}" + (f" ({_some(failing)})" * bool(failing))),
        *[("failed", line) for line in _failed(own)],
        *[("gone", f"{len(gone)} upstream, kept here ({_some(gone)})")] * bool(gone),
        *[("waiting", f"{one.waiting} (to settle)")] * bool(one.waiting),
        *[("sidecars", _unreadable(one.unreadable_sidecars))] * bool(one.unreadable_sidecars),
        ("held", f"{one.open_holds}" + (" (neuromirror holds)" * bool(one.open_holds))),
        ("incidents", f"{one.incidents}" + (" (neuromirror events)" * bool(one.incidents))),
        *[("taken down", f"{len(down)} ({_some(down)})")] * bool(down),
        *[("places", _places(said))] * bool(said),
        *([] if todo is None else [("service", _agenda(todo))]),
    ]:
        yield f"  {head:<11} {text}"
    for number, (name, word) in enumerate(one.capabilities.items()):
        yield f"  {'' if number else 'upstream':<11} {name}: {word}"


def _failed(failures: list[FailureRow]) -> list[str]:
    more = [f"... {len(failures) - _NAMED} more (--json has all)"] * (len(failures) > _NAMED)
    return [*map(_failure, failures[:_NAMED]), *more]


def _failure(failure: FailureRow) -> str:
    name = failure.dataset or failure.mirror
    message = failure.message.removeprefix(f"{name}: ")
    return f"{failure.task} {name}".rstrip() + f": {message} (since {failure.since})"


def _unreadable(datasets: int) -> str:
    plural = "" if datasets == 1 else "s"
    return f"unreadable in {datasets} dataset{plural} (neuromirror events)"


def _places(said: dict[str, int]) -> str:
    told = ", ".join(f"{count} {word}" for word, count in said.items())
    return f"asked last, {told} (neuromirror audit, show)"


def _agenda(todo: Agenda) -> str:
    parts = [f"{todo.tasks} tasks", f"{todo.due} due"]
    if todo.next_due is not None:
        parts.append(f"next {todo.next_due}")
    if todo.under_way:
        parts.append(f"under way: {_some(todo.under_way)}")
    if todo.disabled:
        parts.append(f"disabled after failures: {_some(todo.disabled)}")
    return ", ".join(parts)


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
