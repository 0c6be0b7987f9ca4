"""``neuromirror holds`` and ``release``."""

from __future__ import annotations

import sys

from msgspec import to_builtins

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import Settings, settings_options


@command("holds", example="neuromirror holds")
@settings_options
def holds_command(settings: Settings) -> None:
    """List suspicious updates that wait for approval with "neuromirror release".

    An update is held if the archive lists no files, if more files are missing than [guards] in the
    mirror file allows, or if files changed that must never change. Check the archive, then approve
    the update, or wait until the archive is repaired.
    """
    with settings.index() as index:
        holds = list(index.open_holds())
    for hold in holds:
        settings.emit("holds", to_builtins(hold))
    settings.print_table(
        [[h.hold, h.dataset, h.upstream, h.reason, h.placed_at] for h in holds],
        ["HOLD", "DATASET", "VERSION", "REASON", "SINCE"],
    )
    if not holds:
        settings.print_text("no update is held")
    sys.exit(3 if holds else 0)


@command("release", example="neuromirror release 4f1c")
@argument("hold", help='The id in the column HOLD of "neuromirror holds", or its first characters.')
@settings_options
def release_command(settings: Settings, hold: str) -> None:
    """Approve a held update; the next sync applies it.

    The next sync applies the update only if the list of files is still the same; a different list
    is checked again, and held if it is suspicious. A running service visits the dataset at once.
    """
    from neuromirror.service.hold_release import release_and_make_due

    store = settings.store()
    dataset = release_and_make_due(store, settings.index_path(store), hold)
    settings.emit(
        "release",
        {"hold": hold, "dataset": dataset, "message": "released"},
        f"released; if no service runs on this store, run: neuromirror sync {dataset}",
    )
