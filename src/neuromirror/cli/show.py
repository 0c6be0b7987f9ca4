"""``neuromirror show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neuromirror.cli.addresses import resolve_version
from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import (
    Settings,
    format_traffic,
    settings_options,
)
from neuromirror.cli.datasets import format_counts
from neuromirror.model import Retention, alias_of, count_of, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from neuromirror.cli.shapes import ListedSubdataset, ShownVersion
    from neuromirror.index import CopyRow, EdgeRow, RelatedVersion, VisitRow

_MAX_SHOWN = 10
"""Maximum number of lines per field in text output."""
_REMOVED = "removed upstream, kept in the store"
_NOT_INDEXED = "without the files of this version: 'files' lists them, 'find' does not search them"
_EXPIRES = "upstream may delete files that a draft no longer lists"


@command("show", example="neuromirror show dandi:000027@0.210831.2033")
@argument("version", help="A version, e.g. dandi:000027@draft; the default label is latest.")
@settings_options
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
        dataset = index.dataset(name)
        exceptions = index.exceptions(row)
        attributes = index.attributes(row)
        subdatasets = list(index.subdatasets(row))
        inline = index.inline_components(row)
        ancestors = index.ancestors(row)
        descendants = index.descendants(row)
        superdatasets = index.superdatasets(name)
        visit = next(index.visits(name, limit=1), None)
        links = index.links(name)
        evidence = index.evidence_counts(row)
        copies = index.copies(row)
        location_health = index.failing_locations_of(row)
        failures = [one for one in index.failures() if one.dataset == name]
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
        links=[Link(*one) for one in links],
        derived_from=ancestors,
        derivatives=descendants,
        form=row.form or None,
        manifest_only={"files": row.manifest_only_files, "bytes": row.manifest_only_bytes},
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
    yield from (("superdataset", one) for one in shown.superdatasets)
    yield from _content_lines(shown)
    yield "commit", shown.commit
    yield "tree", shown.tree
    yield "state", shown.state
    if shown.metadata:
        yield "metadata", shown.metadata
    yield "swhid", shown.swhid
    yield "dataset id", shown.dataset_id
    yield from ((f"see ({one.kind})", one.url) for one in shown.links)
    if shown.last_visit is not None:
        yield "last visit", _visit_text(shown.last_visit)
    for one in shown.failures:
        yield "failed", f"{one.task}: {one.message} (since {one.since})"
    yield "clone", shown.clone


def _content_lines(shown: ShownVersion) -> Iterator[tuple[str, str]]:
    """Yield the fields about the files of a version."""
    yield "files", f"{shown.files}, {format_bytes(shown.bytes)} ({shown.bytes} bytes)"
    if shown.form == "manifest":
        yield "form", _form_text(shown)
    if not shown.indexed:
        yield "index", _NOT_INDEXED
    yield "evidence", _evidence_text(shown)
    if shown.retention:
        yield "retention", _retention_text(shown.retention)
    yield from (("other copy", _copy_text(one)) for one in shown.copies)
    if shown.location_health:
        yield "locations", _location_health_text(shown.location_health)
    not_mirrored = len(shown.exceptions)
    yield "not mirrored", f"{not_mirrored} files that upstream lists" if not_mirrored else "0"
    yield from _shortened([f"{one['path']}: {one['detail']}" for one in shown.exceptions])
    if shown.subdatasets:
        yield "subdatasets", _subdatasets_text(shown.subdatasets)
    yield from _shortened([_subdataset_line(one) for one in shown.subdatasets])
    if shown.inline:
        yield "inline", _inline_text(shown.inline)
    yield from _shortened([_inline_line(one) for one in shown.inline])


def _evidence_text(shown: ShownVersion) -> str:
    """Format the number of files per kind of evidence, and who computed the checksums."""
    checked = sum(shown.checked.values())
    text = format_counts(shown.evidence)
    if not checked:
        return f"{text} (claimed by upstream)"
    if checked == sum(shown.evidence.values()):
        return f"{text} (checked: hashed here)"
    return f"{text} ({format_counts(shown.checked)} checked here, others claimed by upstream)"


def _retention_text(retention: Mapping[str, int]) -> str:
    """Format how long upstream promises to keep the files."""
    text = format_counts(retention)
    return f"{text} ({_EXPIRES})" if Retention.DRAFT in retention else text


def _copy_text(copy: CopyRow) -> str:
    """Format another dataset with the same files and a stronger retention."""
    return f"{count_of(copy.files, 'file')} in {copy.dataset} ({copy.retention.value})"


def _visit_text(visit: VisitRow) -> str:
    traffic = f": {format_traffic(visit.traffic)}" if visit.traffic else ""
    message = f"; {visit.message}" if visit.message else ""
    return f"{visit.ended}, {visit.status}{traffic}{message}"


def _location_health_text(counts: dict[str, int]) -> str:
    text = ", ".join(f"{count} {health}" for health, count in counts.items())
    return f"{text} (neuromirror audit)"


def _shortened(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Return the first lines of a field, and the number of the others."""
    more = [f"… and {len(lines) - _MAX_SHOWN} more (--json lists all)"] * (len(lines) > _MAX_SHOWN)
    return [("", line) for line in [*lines[:_MAX_SHOWN], *more]]


def _subdatasets_text(subdatasets: Sequence[ListedSubdataset]) -> str:
    files, size = sum(one.files for one in subdatasets), sum(one.bytes for one in subdatasets)
    return f"{len(subdatasets)} with {files} files, {format_bytes(size)}"


def _subdataset_line(one: ListedSubdataset) -> str:
    version = one.label or one.commit[:12]
    return f"{one.path}: {version}, {one.files} files, {format_bytes(one.bytes)}"


def _form_text(version: ShownVersion) -> str:
    files, size = version.manifest_only["files"], format_bytes(version.manifest_only["bytes"])
    return f"manifest ({files} files, {size}, in the manifest but not in git)"


def _inline_text(inline: Sequence[dict[str, Any]]) -> str:
    files, size = sum(one["files"] for one in inline), sum(one["bytes"] for one in inline)
    return f"{len(inline)} Zarrs as folders in this dataset, {files} files, {format_bytes(size)}"


def _inline_line(one: dict[str, Any]) -> str:
    return f"{one['path']}: {one['checksum']}, {one['files']} files, {format_bytes(one['bytes'])}"


def _input_name(edge: EdgeRow, version: str) -> str:
    if edge.dataset is None:
        return f"{edge.name} (not mirrored)"
    return f"{edge.dataset} (no version yet)" if edge.label is None else _edge_name(edge)


def _derived_name(edge: EdgeRow, version: str) -> str:
    return _edge_name(edge) + (f" (of {edge.own_label})" if edge.own_label != version else "")


def _edge_name(edge: EdgeRow) -> str:
    return f"{edge.dataset}@{edge.label}"


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
