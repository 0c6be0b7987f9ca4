"""Commands that explore datasets: list, search, versions, show and events."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from neuromirror.cli import commands as cli
from neuromirror.cli.addresses import find_address, resolve_version
from neuromirror.cli.common import Settings, format_traffic, split_condition
from neuromirror.model import Retention, alias_of
from neuromirror.model.errors import UnknownAddressError, count_of, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from neuromirror.cli.shapes import ShownVersion
    from neuromirror.index import (
        EdgeRow,
        FoundDataset,
        FoundDatasets,
        Index,
        MatchedText,
        RelatedVersion,
    )


@cli.command(
    "list",
    example="""\
neuromirror list
neuromirror list aind --where subject=625749 --where modality=ecephys
neuromirror list --search "mouse visual cortex\"""",
)
@cli.argument("mirror", required=False, help="A mirror, e.g. dandi [default: all mirrors].")
@cli.repeatable(
    "--where conditions NAME=VALUE",
    "List only datasets with this attribute; VALUE may end in *. Repeat to require several.",
)
@cli.option(
    "--search search_terms TERMS",
    "List only datasets with all these words in metadata or the path of a file.",
)
@cli.flag("--subdatasets", "List subdatasets too, such as large Zarrs.")
@cli.settings_options
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
        for dataset in index.datasets.select(
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
        tombstones = [] if conditions or search_terms else index.datasets.tombstones(mirror)
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


@cli.command("versions", example="neuromirror versions dandi:000027")
@cli.argument("dataset", help="A dataset, e.g. dandi:000027.")
@cli.settings_options
def versions_command(settings: Settings, dataset: str) -> None:
    """List the versions of a dataset.

    KIND is "published", or "observed" for content to which the archive assigned no version (a
    draft, or a bucket). EVIDENCE is the number of files by the kind of their strongest checksum.
    """
    from neuromirror.cli.shapes import ListedVersion

    rows = []
    with settings.index(dataset) as index:
        dataset = find_address(settings, dataset, index).dataset
        for version in index.versions.of(dataset):
            settings.emit("versions", ListedVersion.of(version).plain())
            kind = version.kind + ", metadata only" * version.metadata_only
            size, evidence = format_bytes(version.bytes), format_counts(version.evidence)
            cells = [version.label, kind, str(version.files), size, evidence]
            rows.append([*cells, version.commit[:12]])
    heads = ["VERSION", "KIND", "FILES", "SIZE", "EVIDENCE", "COMMIT"]
    settings.print_table(rows, heads, ["FILES", "SIZE"])
    if not rows:
        settings.print_text(
            f"{dataset} has no versions yet; 'neuromirror status' shows the result of its last "
            "visit"
        )


@cli.command("events", example="neuromirror events dandi:000027 --limit 20")
@cli.argument(
    "dataset", required=False, help="A dataset, e.g. dandi:000027 [default: all datasets]."
)
@cli.option("--limit N", "Maximum number of events.", type=click.IntRange(1), default=100)
@cli.settings_options
def events_command(settings: Settings, dataset: str | None, limit: int) -> None:
    """List incidents and other events, newest first.

    An incident: the archive changed data that must never change. "tombstone": the archive removed a
    dataset; the copy is kept. "takedown": the operator withdrew one. "outage": the archive could
    not be read for a while.
    """
    with settings.index() as index:
        events = list(index.crawl.events(dataset, limit=limit))
    for event in events:
        line = f"{event.at}  {event.kind:<14} {event.dataset or event.mirror}  {event.message}"
        settings.emit("events", to_builtins(event), line)
    if not events:
        settings.print_text("no events")


def format_counts(counts: Mapping[str, int]) -> str:
    """Format counts as ``12 sha256, 3 etag``; a dash for no files."""
    return ", ".join(f"{count} {label}" for label, count in counts.items()) or "-"


_MAX_LINES = 3
"""Maximum number of matching texts per dataset."""
_MAX_SHOWN_VALUES = 20


_FILTERS = (
    ("archive", "MIRROR", "mirror"),
    ("project", "NAME", "project"),
    ("species", "NAME", "species, e.g. mouse or 'Mus musculus'"),
    ("subject", "ID", "subject"),
    ("brain_region", "NAME", "brain region, e.g. hippocampus"),
    ("modality", "NAME", "modality, as the archive names it, e.g. behavior-videos"),
    ("technique", "NAME", "technique, e.g. ecephys or 'calcium imaging'"),
    ("data_type", "NAME", "kind of files, e.g. NWB or OME-Zarr"),
    ("level", "LEVEL", "level of processing, e.g. raw or derived"),
    ("license", "NAME", "license, e.g. CC-BY-4.0"),
    ("size", "CLASS", "size class (see --facets)"),
    ("year", "YEAR", "year of acquisition, else of the latest version"),
    (
        "status",
        "STATUS",
        "status: published, draft (no published version yet) or observed (the archive has no "
        "versions, such as a bucket)",
    ),
)


def _filter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each facet except ``volume``."""
    for name, metavar, text in reversed(_FILTERS):
        words = f"--{name.replace('_', '-')} {name} {metavar}"
        function = cli.repeatable(words, f"Only datasets of this {text}.")(function)
    return function


@cli.command(
    "search",
    example="""\
neuromirror search hippocampus sleep
neuromirror search '"place cells"' --species mouse --status published
neuromirror search --archive dandi --facets""",
)
@cli.many("terms", "[TERMS]...", 'Words, or phrases in "double quotes".')
@_filter_options
@cli.flag("--volume", "Only volumes.")
@cli.choice_option(
    "--sort",
    ["relevance", "newest", "size", "title"],
    "Order of the results [default: relevance; without terms newest].",
)
@cli.option("--limit N", "Maximum number of datasets.", type=click.IntRange(1, 10_000), default=20)
@cli.flag("--facets", "List values to select by, with their counts.")
@cli.settings_options
def search_command(
    settings: Settings,
    terms: tuple[str, ...],
    *,
    volume: bool,
    sort: str | None,
    limit: int,
    facets: bool,
    **filters: tuple[str, ...],
) -> None:
    """Search the datasets of the store by words, and by archive, species, technique, ….

    All words must match: in the metadata, by their stem, as the start of a word, or by a synonym
    (mouse, Mus musculus); the words that are nowhere there must be in the path of one file. A
    phrase in double quotes matches its words in order. Without words, all datasets match. An option
    that is repeated selects datasets with one of several values; --facets lists the values. Exit
    code 1: nothing found.
    """
    text = " ".join(terms)
    selected = {**filters, "volume": ("yes",) * volume}
    with settings.index() as index:
        found = index.search.datasets(text, filters=selected, sort=sort or "", limit=limit)
        if found.total:
            _print_results(settings, found, facets=facets)
            return
        _print_nothing(settings, index, text)
    sys.exit(1)


def _print_results(settings: Settings, found: FoundDatasets, *, facets: bool) -> None:
    from neuromirror.index.shapes import FacetValue, Match

    if facets:
        for name, values in found.facets.items():
            for value in values:
                settings.emit("search", {"facet": name, **FacetValue.of(value).plain()})
        rows = [
            [name, one.value, str(one.count)]
            for name, values in found.facets.items()
            for one in values[:_MAX_SHOWN_VALUES]
        ]
        settings.print_table(rows, ["FACET", "VALUE", "DATASETS"], ["DATASETS"])
        return
    for row in found.rows:
        settings.emit("search", Match.of(row).plain())
        for line in _lines(row):
            settings.print_text(line)
    about = "" if found.exact else "about "
    settings.print_text(f"{len(found.rows)} of {about}{count_of(found.total, 'dataset')}")


def _lines(row: FoundDataset) -> list[str]:
    dataset = row.dataset
    name = dataset.name if dataset.version is None else f"{dataset.name}@{dataset.version}"
    counts = f"{count_of(dataset.files, 'file')}, {format_bytes(dataset.bytes)}"
    lines = [f"{name}  {dataset.title}", f"    {counts}"]
    lines += [f"    {one.field}: {_marked(one)}" for one in row.matched if one.field != "title"][
        :_MAX_LINES
    ]
    if row.path:
        lines.append(f"    path: {row.path}")
    return lines


def _marked(one: MatchedText) -> str:
    """Return a text with its matches between asterisks."""
    pieces, last = [], 0
    for start, end in one.spans:
        pieces += [one.value[last:start], f"*{one.value[start:end]}*"]
        last = end
    return "".join([*pieces, one.value[last:]])


def _print_nothing(settings: Settings, index: Index, text: str) -> None:
    """Report that nothing matches, with the number of datasets for each word."""
    message = "no dataset matches"
    record: dict[str, object] = {}
    if text.strip():
        counts = index.search.count_terms(text)
        record = {"counts": counts}
        each = ", ".join(f"{term}: {count}" for term, count in counts.items())
        message += f" all of this; datasets for each term alone: {each}"
    else:
        message += "; 'neuromirror search --facets' lists the values that can be selected"
    settings.emit("search", {**record, "status": "impossible", "message": message}, message)


_MAX_SHOWN = 10
"""Maximum number of lines per field in text output."""
_REMOVED = "removed upstream, kept in the store"
_NOT_INDEXED = "without the files of this version: 'files' lists them, 'find' does not search them"
_EXPIRES = "upstream may delete files that a draft no longer lists"


@cli.command("show", example="neuromirror show dandi:000027@0.210831.2033")
@cli.argument("version", help="A version, e.g. dandi:000027@draft; the default label is latest.")
@cli.settings_options
def show_command(settings: Settings, version: str) -> None:
    """Show the details of a version.

    The label is the name of a version, "draft", a commit id, state:<hex>, or "latest" (default):
    the newest published version, or the draft if nothing is published. "last visit" is the last
    recorded update; of consecutive updates without changes only the first is recorded.
    """
    from neuromirror.cli.shapes import ShownVersion
    from neuromirror.index.shapes import Link

    with settings.index(version) as index:
        address, row = resolve_version(settings, index, version)
        name = address.dataset
        dataset = index.datasets.get(name)
        exceptions = index.versions.exceptions(row)
        attributes = index.versions.attributes(row)
        subdatasets = list(index.versions.subdatasets(row))
        inline = index.versions.inline_components(row)
        ancestors = index.ancestry.ancestors(row)
        descendants = index.ancestry.descendants(row)
        superdatasets = index.datasets.superdatasets(name)
        visit = next(index.crawl.visits(name, limit=1), None)
        links = index.datasets.links(name)
        evidence = index.files.evidence_counts(row)
        copies = index.files.copies(row)
        location_health = index.locations.failing_of(row)
        failures = [failure for failure in index.crawl.failures() if failure.dataset == name]
    documents = settings.store().repositories.documents(row.dataset_ref, row.commit)
    alias = alias_of(name)
    location = settings.store_folder.absolute()
    shown = ShownVersion.of(
        row,
        source=dataset.source_uri,
        dataset_id=dataset.dataset_id,
        removed=dataset.is_removed_upstream,
        checked=evidence.checked,
        retention=evidence.retention,
        copies=copies,
        location_health=location_health,
        superdatasets=superdatasets,
        attributes=attributes,
        links=[Link(*link) for link in links],
        derived_from=ancestors,
        derivatives=descendants,
        form=row.form or None,
        manifest_only={"files": row.manifest_only_files, "bytes": row.manifest_only_bytes},
        documents=documents,
        subdatasets=subdatasets,
        inline=inline,
        exceptions=exceptions,
        last_visit=visit,
        failures=failures,
        clone=f"datalad clone 'ria+file://{location}#~{alias}@{row.label}'",
    )
    settings.emit("show", shown.plain())
    if settings.json:
        return
    settings.print_text(f"{name}@{row.label}")
    lines = list(_field_lines(shown))
    width = max(12, *(len(head) for head, _ in lines))
    for head, text in lines:
        settings.print_text(f"  {head:<{width}} {text}")
    for head, relatives, end in [
        ("derived from", ancestors, _input_name),
        ("derivatives", descendants, _derived_name),
    ]:
        if relatives:
            settings.print_text(f"  {head}:")
        for line in _relative_lines(relatives, row.label, end):
            settings.print_text(f"    {line}")


def _field_lines(shown: ShownVersion) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of the fields of a version; a line that continues has no name."""
    yield "title", shown.title
    yield "kind", f"{shown.kind} ({shown.upstream})" + ", metadata only" * shown.metadata_only
    yield "time", shown.upstream_time or f"not specified upstream, recorded {shown.recorded_at}"
    yield "source", shown.source + f" ({_REMOVED})" * shown.removed
    yield "doi", shown.doi or "-"
    yield "license", ", ".join(shown.license) or "-"
    yield from ((name, ", ".join(values)) for name, values in shown.attributes.items())
    yield from (("superdataset", superdataset) for superdataset in shown.superdatasets)
    yield from _content_lines(shown)
    yield "commit", shown.commit
    yield "tree", shown.tree
    yield "state", shown.state
    if shown.metadata:
        yield "metadata", shown.metadata
    yield "swhid", shown.swhid
    yield "dataset id", shown.dataset_id
    yield from ((f"see ({link.kind})", link.url) for link in shown.links)
    if shown.last_visit is not None:
        visit = shown.last_visit
        traffic = f": {format_traffic(visit.traffic)}" if visit.traffic else ""
        message = f"; {visit.message}" if visit.message else ""
        yield "last visit", f"{visit.ended}, {visit.status}{traffic}{message}"
    for failure in shown.failures:
        yield "failed", f"{failure.task}: {failure.message} (since {failure.since})"
    yield "clone", shown.clone


def _content_lines(shown: ShownVersion) -> Iterator[tuple[str, str]]:
    """Yield the fields about the files of a version."""
    yield "files", f"{shown.files}, {format_bytes(shown.bytes)} ({shown.bytes} bytes)"
    if shown.form == "manifest":
        files, size = shown.manifest_only["files"], shown.manifest_only["bytes"]
        total = f"{files} files, {format_bytes(size)}"
        yield "form", f"manifest ({total}, in the manifest but not in git)"
    if not shown.indexed:
        yield "index", _NOT_INDEXED
    yield "evidence", _evidence_text(shown)
    if shown.retention:
        expires = f" ({_EXPIRES})" if Retention.DRAFT in shown.retention else ""
        yield "retention", f"{format_counts(shown.retention)}{expires}"
    for copy in shown.copies:
        copied = count_of(copy.files, "file")
        yield "other copy", f"{copied} in {copy.dataset} ({copy.retention.value})"
    if shown.location_health:
        yield "locations", f"{format_counts(shown.location_health)} (neuromirror audit)"
    not_mirrored = len(shown.exceptions)
    yield "not mirrored", f"{not_mirrored} files that upstream lists" if not_mirrored else "0"
    yield from _shortened([f"{one['path']}: {one['detail']}" for one in shown.exceptions])
    if documents := shown.documents:
        size = sum(document.size for document in documents)
        yield "documents", f"{len(documents)} plain files in git, {format_bytes(size)}"
    yield from _shortened(
        [
            f"{document.path}: {format_bytes(document.size)}"
            + ", differs from upstream's" * document.cleaned
            for document in documents
        ]
    )
    parts, zarrs = shown.subdatasets, shown.inline
    if parts:
        files, size = sum(part.files for part in parts), sum(part.bytes for part in parts)
        yield "subdatasets", f"{len(parts)} with {files} files, {format_bytes(size)}"
    yield from _shortened(
        [
            f"{part.path}: {part.label or part.commit[:12]}, {part.files} files, "
            f"{format_bytes(part.bytes)}"
            for part in parts
        ]
    )
    if zarrs:
        files, size = sum(zarr["files"] for zarr in zarrs), sum(zarr["bytes"] for zarr in zarrs)
        text = f"{len(zarrs)} Zarrs as folders in this dataset, {files} files, {format_bytes(size)}"
        yield "inline", text
    yield from _shortened(
        [
            f"{zarr['path']}: {zarr['checksum']}, {zarr['files']} files, "
            f"{format_bytes(zarr['bytes'])}"
            for zarr in zarrs
        ]
    )


def _evidence_text(shown: ShownVersion) -> str:
    """Format the number of files per kind of evidence, and who computed the checksums."""
    checked = sum(shown.checked.values())
    text = format_counts(shown.evidence)
    if not checked:
        return f"{text} (claimed by upstream)"
    if checked == sum(shown.evidence.values()):
        return f"{text} (checked: hashed here)"
    return f"{text} ({format_counts(shown.checked)} checked here, others claimed by upstream)"


def _shortened(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Return the first lines of a field, and the number of the others."""
    more = [f"… and {len(lines) - _MAX_SHOWN} more (--json lists all)"] * (len(lines) > _MAX_SHOWN)
    return [("", line) for line in [*lines[:_MAX_SHOWN], *more]]


def _input_name(edge: EdgeRow, version: str) -> str:
    if edge.dataset is None:
        return f"{edge.name} (not mirrored)"
    is_new = edge.label is None
    return f"{edge.dataset} (no version yet)" if is_new else f"{edge.dataset}@{edge.label}"


def _derived_name(edge: EdgeRow, version: str) -> str:
    of_other = f" (of {edge.own_label})" if edge.own_label != version else ""
    return f"{edge.dataset}@{edge.label}{of_other}"


def _relative_lines(
    relatives: Sequence[RelatedVersion], version: str | None, end: Callable[[EdgeRow, str], str]
) -> Iterator[str]:
    """Yield one line per relative of a version, with its own relatives indented."""
    for relative in relatives[:_MAX_SHOWN]:
        yield end(relative, version or "")
        inner = _relative_lines(relative.relatives, relative.label, end)
        yield from (f"  {line}" for line in inner)
        if relative.is_truncated:
            yield "  …"
    if len(relatives) > _MAX_SHOWN:
        yield f"… and {len(relatives) - _MAX_SHOWN} more (--json lists all)"
