"""``neuromirror watch``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from neuromirror.cli.addresses import find_address, may_be_address
from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import NamedPath, Settings, settings_options
from neuromirror.model.errors import NeuromirrorError

if TYPE_CHECKING:
    from neuromirror.index import Index
    from neuromirror.lab.watch import Channel, Watch, WatchFile

NEWS = 4
"""Exit code of ``--exit-code`` for news."""


@command(
    "watch",
    example="""\
neuromirror watch datasets.lock --once --exit-code
neuromirror watch dandi:000027 hippocampus --mail lab@example.org
neuromirror watch datasets.lock --command ./on-news --interval 360""",
)
@argument(
    "what",
    nargs=-1,
    required=True,
    metavar="LOCK|DATASET|KEYWORDS...",
    help="A lock file (a name that ends in .lock, or an existing file), a dataset, a version that "
    "you use (dandi:000027@0.210831.2033), both also by another address, a condition "
    "('modality=eph*'), or words to search for. Each argument is one watch; quote words that must "
    "all match ('hippocampus sleep').",
)
@click.option("--mail", "mails", multiple=True, metavar="ADDRESS", help="Send news by mail.")
@click.option(
    "--webhook",
    "webhooks",
    multiple=True,
    metavar="URL",
    envvar="NEUROMIRROR_WEBHOOK",
    help="Send news as JSON to a URL [default: $NEUROMIRROR_WEBHOOK].",
)
@click.option(
    "--command",
    "commands",
    multiple=True,
    metavar="COMMAND",
    help="Run a program (without a shell) with the news as JSON lines on its standard input.",
)
@click.option("--once", is_flag=True, help="Check once and exit, for cron and CI.")
@click.option(
    "--interval",
    type=click.IntRange(1),
    default=60,
    show_default=True,
    metavar="MINUTES",
    help="Time between checks.",
)
@click.option(
    "--dry-run", is_flag=True, help="Check the watches and options; send and write nothing."
)
@click.option("--exit-code", is_flag=True, help="With --once, exit with 4 if there is news.")
@click.option(
    "--state",
    type=NamedPath(),
    metavar="FILE",
    help="File that remembers known versions [default: LOCK.watch.json for a single lock file, "
    "else in the user's state folder].",
)
@click.option("--allow-private", is_flag=True, help="Allow webhooks on private addresses.")
@click.option(
    "--smtp",
    metavar="HOST[:PORT]",
    envvar="NEUROMIRROR_SMTP",
    default="localhost",
    show_default=True,
    help="Mail server; user and password from $NEUROMIRROR_SMTP_USER and "
    "$NEUROMIRROR_SMTP_PASSWORD.",
)
@click.option(
    "--mail-from", metavar="ADDRESS", default="", help="Sender of mails [default: the recipient]."
)
@settings_options
def watch_command(
    settings: Settings,
    what: tuple[str, ...],
    *,
    mails: tuple[str, ...],
    webhooks: tuple[str, ...],
    commands: tuple[str, ...],
    once: bool,
    interval: int,
    dry_run: bool,
    exit_code: bool,
    state: Path | None,
    allow_private: bool,
    smtp: str,
    mail_from: str,
) -> None:
    """Report new versions, new datasets and incidents in the store.

    News is a newer version of a pinned version or of a dataset, an incident in such a dataset, or a
    dataset that a search had not found before. The first check of a dataset or a search only
    records what exists; a pinned version is compared with the newest one immediately.

    Only the store is read, not the archives; "neuromirror sync" or "serve" updates the store. News
    is always printed, and sent to all channels in one message. A channel that fails gets its news
    with the next check. A watch that fails does not stop the others; "neuromirror status" shows the
    failure until it is resolved.

    A password for mail is sent over TLS only, except to this machine. Only the host of a webhook
    URL is shown. The program of --command does not receive credentials from the environment.

    Exit code with --once: 0 success, 1 a watch or a channel failed, 2 wrong usage, 4 news (only
    with --exit-code).
    """
    from neuromirror.lab.watch_channels import (
        CommandChannel,
        MailChannel,
        MailServer,
        WebhookChannel,
    )

    server = MailServer.parse(
        smtp,
        os.environ.get("NEUROMIRROR_SMTP_USER", ""),
        os.environ.get("NEUROMIRROR_SMTP_PASSWORD", ""),
    )
    channels: list[Channel] = [
        *(MailChannel(one, server, mail_from) for one in mails),
        *(WebhookChannel(one, allow_private) for one in webhooks),
        *(CommandChannel(one) for one in commands),
    ]
    path = _state_path(settings, what) if state is None else state
    while True:
        code = _check(settings, what, channels, path, dry_run=dry_run)
        if once or dry_run:
            sys.exit(code if code != NEWS or exit_code else 0)
        time.sleep(interval * 60)


def _state_path(settings: Settings, what: Sequence[str]) -> Path:
    from neuromirror.store import refuse_symlinks

    first = Path(what[0])
    if len(what) == 1 and first.is_file():
        name = f"{first.name}.watch.json"
        # the folder of a lock file may come from another user
        refuse_symlinks(first.parent, name, f".{name}.lock")
        return first.with_name(name)
    from platformdirs import user_state_path

    from neuromirror.lab.watch import channel_id

    folder = user_state_path("neuromirror", ensure_exists=True)
    # one file per store and set of watches
    name = channel_id(str(settings.store().root.resolve()), "\n".join(sorted(what)))
    return folder / f"watch-{name[:12]}.json"


def _check(
    settings: Settings,
    what: Sequence[str],
    channels: Sequence[Channel],
    path: Path,
    *,
    dry_run: bool,
) -> int:
    """Check all watches once; return the exit code."""
    from neuromirror.lab.watch import open_watch_file, read_watch_file

    store = settings.store()
    if dry_run:
        failures, _ = _check_watches(settings, what, (), read_watch_file(path), dry_run=True)
        for channel in channels:
            record = {"kind": "channel", "channel": channel.name}
            settings.emit("watch", record, f"{'ok':<10} {channel.name}")
        return 1 if failures else 0
    with open_watch_file(path) as content:
        failures, news = _check_watches(settings, what, channels, content, dry_run=False)
    with settings.failure_log(store) as log:
        if log is not None:
            task = f"watch ({path.resolve()})"
            if failures:
                log.record_failure(task, "; ".join(failures))
            else:
                log.record_success(task)
    return 1 if failures else NEWS if news else 0


def _check_watches(
    settings: Settings,
    what: Sequence[str],
    channels: Sequence[Channel],
    content: WatchFile,
    *,
    dry_run: bool,
) -> tuple[list[str], int]:
    """Check watches and send their news; return the failures and the number of news."""
    from neuromirror.lab.watch import News, check_watch, deliver

    failures: list[str] = []
    news: list[News] = []

    def fail(name: str, message: str) -> None:
        failures.append(f"{name}: {message}")
        record = {"kind": "watch", "watch": name, "status": "error", "message": message}
        settings.emit("watch", record, f"{'error':<10} {name}  {message}")

    with settings.index() as index:
        watches = _watches(settings, index, what, fail)
        for watch in watches:
            try:
                found, known = check_watch(watch, index, content.watches.get(watch.name))
            except NeuromirrorError as error:
                fail(watch.name, str(error))
                continue
            content.watches[watch.name] = known
            news += found
            count = f"{len(found)} news" if found else "nothing new"
            record = {"kind": "watch", "watch": watch.name, "news": len(found)}
            line = f"{'ok':<10} {watch.name}  {count}"
            settings.emit("watch", record, line if dry_run else None)
    for one in news:
        record = {"kind": one.kind, "watch": one.watch, "dataset": one.dataset}
        record |= {"version": one.version, "message": one.message}
        settings.emit("watch", record, f"{one.kind:<10} {one.dataset}  {one.message}")
    if not dry_run:
        for name, message in deliver(news, channels, content).items():
            fail(name, message)
    return failures, len(news)


def _watches(
    settings: Settings, index: Index, what: Sequence[str], fail: Callable[[str, str], None]
) -> list[Watch]:
    from neuromirror.lab.watch import parse_watch

    watches: dict[str, Watch] = {}
    for text in what:
        try:
            found = parse_watch(_resolved(settings, index, text))
        except NeuromirrorError as error:
            fail(text, str(error))
        else:
            watches.update({one.name: one for one in found})
    return list(watches.values())


def _resolved(settings: Settings, index: Index, text: str) -> str:
    """Return the name of the dataset or version at an address; other arguments are unchanged."""
    is_condition = "=" in text.partition("://")[0]
    if is_condition or " " in text or text.endswith("@") or not may_be_address(text):
        return text
    if os.path.lexists(text):
        return text
    address = find_address(settings, text, index)
    return address.dataset if address.version is None else f"{address.dataset}@{address.version}"
