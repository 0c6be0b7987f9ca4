"""``neuromirror status``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import to_builtins
from msgspec.structs import asdict

from neuromirror.cli.commands import command
from neuromirror.cli.common import Settings, settings_options
from neuromirror.model.errors import count_of, format_bytes

if TYPE_CHECKING:
    from neuromirror.index import FailureRow, MirrorStatus
    from neuromirror.service.catalogue_status import CatalogueStatus
    from neuromirror.service.custody_status import CustodyStatus
    from neuromirror.service.store_status import ScheduleSummary

_MAX_SHOWN = 5
"""Maximum number of names per line."""


@command("status", example="neuromirror status")
@settings_options
def status_command(settings: Settings) -> None:
    """Show the status of each mirror.

    For each mirror: datasets and files, the times of the last listing and visit, failures that are
    not resolved, held updates, incidents, withdrawn datasets, broken URLs, and the jobs of a
    running service; with vaults, the copies, what is not kept, and the last drills; the running
    catalogues.

    Exit code: 0 no problem, 1 something fails, 3 an update is held.
    """
    from neuromirror.service.catalogue_status import catalogue_statuses
    from neuromirror.service.custody_status import CustodyStatus
    from neuromirror.service.integrity import IntegrityState
    from neuromirror.service.store_status import schedule_summaries, unwritable_paths

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
                **to_builtins(one),
                "last_checked": when,
                "location_health": location_health,
                "taken_down": withdrawn,
                "schedule": None if schedule is None else to_builtins(schedule),
            }
            settings.emit("status", record)
            code = code or (3 if one.open_holds else 0)
            shown.add(one.mirror)
            if settings.json:
                continue
            own = [row for row in failures if row.mirror == one.mirror]
            removed = (
                [row.name for row in index.datasets(one.mirror) if row.is_removed_upstream]
                if one.removed_upstream
                else []
            )
            for line in _mirror_lines(
                one, when, own, removed, withdrawn, location_health, schedule
            ):
                settings.print_text(line)
    if not shown:
        settings.print_text("the store has no mirrors yet; run 'neuromirror sync'")
    for failure in failures:
        code = 1
        record = {**to_builtins(failure), "status": "error"}
        shown_text = None if failure.mirror in shown else f"failed  {_failure_text(failure)}"
        settings.emit("status", record, shown_text)
    custody, catalogues = CustodyStatus.load(store), catalogue_statuses(store)
    for record, text in (*_custody_lines(custody), *map(_catalogue_line, catalogues)):
        settings.emit("status", record, text)
    for message in (*custody.problems(), *(text for one in catalogues for text in one.problems())):
        code = 1
        settings.emit("status", {"status": "error", "message": message}, f"failed  {message}")
    for message in (*IntegrityState.load(store).messages, *unwritable_paths(store)):
        code = 1
        record = {"status": "error", "path": str(store.root), "message": message}
        settings.emit("status", record, f"damaged {message}")
    sys.exit(code)


def _custody_lines(custody: CustodyStatus) -> Iterator[tuple[dict[str, object], str]]:
    """Yield a record and a line per [[keep]], vault and drill."""
    for keep in custody.keeps:
        text = f"keep {keep.locks} in {keep.vault}  {count_of(keep.lock_files, 'lock file')}, "
        text += f"{count_of(keep.contents, 'content')}, {format_bytes(keep.bytes)}"
        if keep.lacking:
            text += f"; {keep.lacking} not in the vault yet ({format_bytes(keep.lacking_bytes)})"
        status = "error" if keep.problems else "ok"
        yield {"kind": "keep", "status": status, **asdict(keep)}, text
    for vault in custody.vaults:
        text = f"vault {vault.name}  {vault.copies} copies, {format_bytes(vault.bytes)}"
        if vault.oldest_check is not None and vault.oldest_read is not None:
            text += f"; all checked since {_moment(vault.oldest_check)}"
            text += (
                f", all read since {_moment(vault.oldest_read) if vault.oldest_read else 'never'}"
            )
        if vault.damaged or vault.missing:
            text += f"; {vault.damaged} damaged, {vault.missing} missing"
        yield (
            {**to_builtins(vault), "kind": "vault", "vault_kind": vault.kind, "status": "ok"},
            text,
        )
    for path, drill in custody.drills.items():
        text = f"drill {path}  {_moment(drill.at)}: {drill.message}"
        status = "ok" if drill.ok else "error"
        yield {"kind": "drill", "lock": path, "status": status, **asdict(drill)}, text


def _catalogue_line(one: CatalogueStatus) -> tuple[dict[str, object], str]:
    """Return a record and a line about a running catalogue."""
    modes = [f"{mirror} {mode}".lstrip() for mirror, mode in one.gateway.items()]
    text = f"catalogue {one.name}  gateway {', '.join(modes)}"
    failures = [f"{count} {reason}" for reason, count in one.gateway_failures.items()]
    if failures:
        text += f"; failed responses of the gateway: {', '.join(failures)}"
    record = {
        **{"kind": "catalogue", "url": one.url, "host": one.host, "status": "ok"},
        **{"gateway": one.gateway, "counts": one.counts, "saved_at": one.saved_at},
    }
    return record, text


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _mirror_lines(
    one: MirrorStatus,
    when: str,
    own: list[FailureRow],
    removed: list[str],
    withdrawn: list[str],
    location_health: dict[str, int],
    schedule: ScheduleSummary | None,
) -> Iterator[str]:
    """Yield the lines about a mirror; ``own`` are the failures of the mirror."""
    from neuromirror.service.store_status import format_age

    failing = [row.dataset for row in own if row.task == "visit" and row.dataset]
    yield f"{one.mirror}  {one.uri}"
    for head, text in [
        ("datasets", _dataset_counts(one)),
        ("content", f"{one.files} files in latest versions, {format_bytes(one.bytes)}"),
        ("last listing", when + format_age(when)),
        ("last visit", (one.last_visit or "never") + format_age(one.last_visit)),
        ("last full", (one.last_full_visit or "never") + format_age(one.last_full_visit)),
        ("failing", f"{one.failing}" + (f" ({_first_names(failing)})" * bool(failing))),
        *[("failed", line) for line in _failure_lines(own)],
        *[("removed", f"{len(removed)} upstream, kept in the store ({_first_names(removed)})")]
        * bool(removed),
        *[("settling", f"{one.settling} (still changing upstream)")] * bool(one.settling),
        *[("sidecars", _unreadable_text(one.unreadable_sidecars))] * bool(one.unreadable_sidecars),
        ("held", f"{one.open_holds}" + (" (neuromirror holds)" * bool(one.open_holds))),
        ("incidents", f"{one.incidents}" + (" (neuromirror events)" * bool(one.incidents))),
        *[("taken down", f"{len(withdrawn)} ({_first_names(withdrawn)})")] * bool(withdrawn),
        *[("locations", _location_health_text(location_health))] * bool(location_health),
        *([] if schedule is None else [("service", _schedule_text(schedule))]),
    ]:
        yield f"  {head:<12} {text}"
    for number, (name, value) in enumerate(one.capabilities.items()):
        yield f"  {'' if number else 'upstream':<12} {name}: {value}"


def _failure_lines(failures: list[FailureRow]) -> list[str]:
    more = [f"... {len(failures) - _MAX_SHOWN} more (--json lists all)"] * (
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
    return f"{text} (neuromirror audit, neuromirror show)"


def _schedule_text(schedule: ScheduleSummary) -> str:
    parts = [f"{schedule.tasks} tasks", f"{schedule.due} due"]
    if schedule.next_due is not None:
        parts.append(f"next {schedule.next_due}")
    if schedule.in_progress:
        parts.append(f"in progress: {_first_names(schedule.in_progress)}")
    if schedule.disabled:
        parts.append(f"disabled after repeated failures: {_first_names(schedule.disabled)}")
    return ", ".join(parts)


def _dataset_counts(mirror: MirrorStatus) -> str:
    subdatasets = f" and {mirror.subdatasets} subdatasets" if mirror.subdatasets else ""
    return f"{mirror.datasets - mirror.subdatasets}{subdatasets}, {mirror.versions} versions"


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:_MAX_SHOWN]) + (
        f", … {len(names) - _MAX_SHOWN} more" * (len(names) > _MAX_SHOWN)
    )
