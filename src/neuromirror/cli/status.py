"""``neuromirror status``, ``check-config`` and ``rebuild-index``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from neuromirror.cli.common import Settings, settings_options
from neuromirror.model.display import format_bytes

if TYPE_CHECKING:
    from neuromirror.index import FailureRow, MirrorStatus
    from neuromirror.service.store_status import ScheduleSummary

_MAX_SHOWN = 5


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
    from neuromirror.service.store_status import known_damage, schedule_summaries, unwritable_paths

    store = settings.store()
    code = 0
    shown: set[str] = set()
    agenda = schedule_summaries(store)
    with settings.index() as index:
        failures = index.failures()
        ailing = index.failing_locations()
        for one in index.mirror_status():
            checked = store.last_listed(one.mirror)
            when = "never" if checked is None else checked.isoformat(timespec="seconds")
            location_health = ailing.get(one.mirror, {})
            withdrawn = [
                stone.dataset for stone in index.tombstones(one.mirror) if not stone.within
            ]
            schedule = agenda.get(one.mirror)
            record = {
                **asdict(one),
                "last_checked": when,
                "places": location_health,
                "taken_down": withdrawn,
            }
            settings.emit(
                "status", {**record, "schedule": None if schedule is None else asdict(schedule)}
            )
            code = code or (3 if one.open_holds else 0)
            shown.add(one.mirror)
            if settings.json:
                continue
            own = [row for row in failures if row.mirror == one.mirror]
            gone = (
                [row.name for row in index.datasets(one.mirror) if row.is_removed_upstream]
                if one.removed_upstream
                else []
            )
            for line in _mirror_lines(one, when, own, gone, withdrawn, location_health, schedule):
                settings.print_text(line)
    if not shown:
        settings.print_text("nothing is mirrored yet; run 'neuromirror sync'")
    for failure in failures:
        code = 1
        record = {**asdict(failure), "status": "error"}
        shown_text = None if failure.mirror in shown else f"failed  {_failure_text(failure)}"
        settings.emit("status", record, shown_text)
    for message in (*known_damage(store), *unwritable_paths(store)):
        code = 1
        record = {"status": "error", "path": str(store.root), "message": message}
        settings.emit("status", record, f"broken  {message}")
    sys.exit(code)


def _mirror_lines(
    one: MirrorStatus,
    when: str,
    own: list[FailureRow],
    gone: list[str],
    withdrawn: list[str],
    location_health: dict[str, int],
    schedule: ScheduleSummary | None,
) -> Iterator[str]:
    """Yield the lines about a mirror; ``own`` are its failures."""
    from neuromirror.service.store_status import format_age

    failing = [row.dataset for row in own if row.task == "visit" and row.dataset]
    yield f"{one.mirror}  {one.uri}"
    for head, text in [
        ("datasets", _dataset_counts(one)),
        ("content", f"{one.files} files in latest versions, {format_bytes(one.bytes)}"),
        ("list read", when + format_age(when)),
        ("last visit", (one.last_visit or "never") + format_age(one.last_visit)),
        ("last full", (one.last_full_visit or "never") + format_age(one.last_full_visit)),
        ("failing", f"{one.failing}" + (f" ({_first_names(failing)})" * bool(failing))),
        *[("failed", line) for line in _failure_lines(own)],
        *[("gone", f"{len(gone)} upstream, kept here ({_first_names(gone)})")] * bool(gone),
        *[("waiting", f"{one.settling} (to settle)")] * bool(one.settling),
        *[("sidecars", _unreadable_text(one.unreadable_sidecars))] * bool(one.unreadable_sidecars),
        ("held", f"{one.open_holds}" + (" (neuromirror holds)" * bool(one.open_holds))),
        ("incidents", f"{one.incidents}" + (" (neuromirror events)" * bool(one.incidents))),
        *[("taken down", f"{len(withdrawn)} ({_first_names(withdrawn)})")] * bool(withdrawn),
        *[("places", _location_health_text(location_health))] * bool(location_health),
        *([] if schedule is None else [("service", _schedule_text(schedule))]),
    ]:
        yield f"  {head:<11} {text}"
    for number, (name, value) in enumerate(one.capabilities.items()):
        yield f"  {'' if number else 'upstream':<11} {name}: {value}"


def _failure_lines(failures: list[FailureRow]) -> list[str]:
    more = [f"... {len(failures) - _MAX_SHOWN} more (--json has all)"] * (
        len(failures) > _MAX_SHOWN
    )
    return [*map(_failure_text, failures[:_MAX_SHOWN]), *more]


def _failure_text(failure: FailureRow) -> str:
    name = failure.dataset or failure.mirror
    message = failure.message.removeprefix(f"{name}: ")
    return f"{failure.task} {name}".rstrip() + f": {message} (since {failure.since})"


def _unreadable_text(datasets: int) -> str:
    plural = "" if datasets == 1 else "s"
    return f"unreadable in {datasets} dataset{plural} (neuromirror events)"


def _location_health_text(counts: dict[str, int]) -> str:
    text = ", ".join(f"{count} {health}" for health, count in counts.items())
    return f"asked last, {text} (neuromirror audit, show)"


def _schedule_text(schedule: ScheduleSummary) -> str:
    parts = [f"{schedule.tasks} tasks", f"{schedule.due} due"]
    if schedule.next_due is not None:
        parts.append(f"next {schedule.next_due}")
    if schedule.in_progress:
        parts.append(f"under way: {_first_names(schedule.in_progress)}")
    if schedule.disabled:
        parts.append(f"disabled after failures: {_first_names(schedule.disabled)}")
    return ", ".join(parts)


def _dataset_counts(mirror: MirrorStatus) -> str:
    parts = f" and {mirror.subdatasets} that are parts of others," if mirror.subdatasets else ""
    return f"{mirror.datasets - mirror.subdatasets}{parts} with {mirror.versions} versions"


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:_MAX_SHOWN]) + (
        f", … {len(names) - _MAX_SHOWN} more" * (len(names) > _MAX_SHOWN)
    )


@click.command("check-config")
@settings_options
def check_config_command(settings: Settings) -> None:
    """Check the mirror files.

    No archive is asked. Every file is checked, and every wrong one is named. Exit code: 0 all
    right, 2 something is wrong.
    """
    from neuromirror.crawl import list_mirror_files, load_mirror
    from neuromirror.model import ConfigurationError

    code = 0
    for path in list_mirror_files(settings.mirrors_folder):
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
