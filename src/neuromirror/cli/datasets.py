"""``neuromirror list``, ``versions`` and ``events``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from msgspec import to_builtins

from neuromirror.cli.addresses import find_address
from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import Settings, settings_options, split_condition
from neuromirror.model.errors import UnknownAddressError, format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping


@command(
    "list",
    example="""\
neuromirror list
neuromirror list aind --where subject=625749 --where modality=ecephys
neuromirror list --search "mouse visual cortex\"""",
)
@argument("mirror", required=False, help="A mirror, e.g. dandi [default: all mirrors].")
@click.option(
    "--where",
    "conditions",
    metavar="NAME=VALUE",
    multiple=True,
    help="List only datasets with this attribute; VALUE may end in *. Repeat to require several.",
)
@click.option(
    "--search",
    "search_terms",
    metavar="TERMS",
    help="List only datasets with all these words in metadata or the path of a file.",
)
@click.option("--subdatasets", is_flag=True, help="List subdatasets too, such as large Zarrs.")
@settings_options
def list_command(
    settings: Settings,
    mirror: str | None,
    conditions: tuple[str, ...],
    search_terms: str | None,
    *,
    subdatasets: bool,
) -> None:
    """List the datasets in the store.

    LATEST is the newest published version, or the newest state of the draft if nothing is
    published; FILES and SIZE are those of that version. --where compares its attributes, such as
    subject or modality, which "neuromirror show" prints.
    """
    from neuromirror.cli.shapes import ListedDataset

    rows = []
    where = [split_condition(condition) for condition in conditions]
    with settings.index() as index, _search_suggested(mirror):
        for dataset in index.datasets(
            mirror, where=where, text=search_terms, subdatasets=subdatasets
        ):
            title = "(removed upstream) " * dataset.is_removed_upstream + dataset.title
            if dataset.version is None:
                listed = ListedDataset.of(dataset, files=None, bytes=None)
                rows.append([dataset.name, "-", "-", "-", title])
            else:
                listed = ListedDataset.of(dataset)
                size = format_bytes(dataset.bytes)
                rows.append([dataset.name, dataset.version, str(dataset.files), size, title])
            settings.emit("list", listed.plain())
        tombstones = [] if conditions or search_terms else index.tombstones(mirror)
    settings.print_table(rows, ["DATASET", "LATEST", "FILES", "SIZE", "TITLE"], ["FILES", "SIZE"])
    for tombstone in tombstones:
        if subdatasets or not tombstone.within:
            settings.print_text(
                f"taken down  {tombstone.dataset}  {tombstone.at[:10]}: {tombstone.reason}"
            )
    if not rows and (conditions or search_terms):
        settings.print_text("no dataset matches")
    elif not rows:
        settings.print_text("the store has no datasets yet; run 'neuromirror sync'")


@contextmanager
def _search_suggested(name: str | None) -> Iterator[None]:
    """Suggest a search for a name that is not that of a mirror, and versions of a dataset."""
    from neuromirror.index import UnknownMirrorError

    try:
        yield
    except UnknownMirrorError as error:
        verb = "versions" if ":" in (name or "") else "search"
        suggestion = f"'neuromirror {verb} {shlex.quote(name or '')}'"
        raise UnknownAddressError(str(error), [suggestion]) from error


@command("versions", example="neuromirror versions dandi:000027")
@argument("dataset", help="A dataset, e.g. dandi:000027.")
@settings_options
def versions_command(settings: Settings, dataset: str) -> None:
    """List the versions of a dataset.

    KIND is "published", or "observed" for content to which the archive assigned no version (a
    draft, or a bucket). EVIDENCE is the number of files by the kind of their strongest checksum.
    """
    from neuromirror.cli.shapes import ListedVersion

    rows = []
    with settings.index(dataset) as index:
        dataset = find_address(settings, dataset, index).dataset
        for version in index.versions(dataset):
            settings.emit("versions", ListedVersion.of(version).plain())
            rows.append(
                [
                    version.label,
                    version.kind + ", metadata only" * version.metadata_only,
                    str(version.files),
                    format_bytes(version.bytes),
                    format_counts(version.evidence),
                    version.commit[:12],
                ]
            )
    heads = ["VERSION", "KIND", "FILES", "SIZE", "EVIDENCE", "COMMIT"]
    settings.print_table(rows, heads, ["FILES", "SIZE"])
    if not rows:
        settings.print_text(
            f"{dataset} has no versions yet; 'neuromirror status' shows the result of its last "
            "visit"
        )


@command("events", example="neuromirror events dandi:000027 --limit 20")
@argument("dataset", required=False, help="A dataset, e.g. dandi:000027 [default: all datasets].")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    metavar="N",
    help="Maximum number of events.",
)
@settings_options
def events_command(settings: Settings, dataset: str | None, limit: int) -> None:
    """List incidents and other events, newest first.

    An incident: the archive changed data that must never change. "tombstone": the archive removed a
    dataset; the copy is kept. "takedown": the operator withdrew one.
    """
    with settings.index() as index:
        events = list(index.events(dataset, limit=limit))
    for event in events:
        line = f"{event.at}  {event.kind:<14} {event.dataset or event.mirror}  {event.message}"
        settings.emit("events", to_builtins(event), line)
    if not events:
        settings.print_text("no events")


def format_counts(counts: Mapping[str, int]) -> str:
    """Format counts as ``12 sha256, 3 etag``; a dash for no files."""
    return ", ".join(f"{count} {label}" for label, count in counts.items()) or "-"
