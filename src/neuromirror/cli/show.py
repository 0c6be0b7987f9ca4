"""``neuromirror show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import (
    Settings,
    format_traffic,
    settings_options,
    split_version,
)
from neuromirror.cli.datasets import format_counts
from neuromirror.model import Retention, alias_of, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from neuromirror.index import (
        CopyRow,
        EdgeRow,
        EvidenceCounts,
        RelatedVersion,
        SubdatasetRow,
        VersionRow,
        VisitRow,
    )

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
    the newest published version, or the draft if nothing is published.

    A dataset that is derived from this one is shown with its newest version that was made from
    this version, or with its newest version and the version that it was made from. The last visit
    is shown with its requests; of consecutive visits without changes only the first is recorded.
    """
    from neuromirror.cli.shapes import ShownVersion
    from neuromirror.index.shapes import Link

    name, label = split_version(version)
    with settings.index() as index:
        dataset = index.dataset(name)
        row = index.resolve(name, label)
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
    not_mirrored = [f"{one['path']}: {one['detail']}" for one in exceptions]
    lines = [
        ("title", row.title),
        ("kind", f"{row.kind} ({row.upstream})" + ", metadata only" * row.metadata_only),
        ("time", row.upstream_time or f"observed {row.recorded_at} (unspecified upstream)"),
        (
            "source",
            dataset.source_uri + f" ({_REMOVED})" * dataset.is_removed_upstream,
        ),
        ("doi", row.doi or "-"),
        ("license", ", ".join(row.license) or "-"),
        *[(name, ", ".join(values)) for name, values in attributes.items()],
        *[("superdataset", one) for one in superdatasets],
        ("files", f"{row.files}, {format_bytes(row.bytes)} ({row.bytes} bytes)"),
        *([("form", _form_text(row))] if row.form == "manifest" else []),
        *([] if row.indexed else [("index", _NOT_INDEXED)]),
        ("evidence", _evidence_text(row.evidence, evidence)),
        *([("retention", _retention_text(evidence))] if evidence.retention else []),
        *[("other copy", _copy_text(one)) for one in copies],
        *([("locations", _location_health_text(location_health))] if location_health else []),
        ("not mirrored", f"{len(exceptions)} files that upstream lists" if exceptions else "0"),
        *_shortened(not_mirrored),
        *([("subdatasets", _subdatasets_text(subdatasets))] if subdatasets else []),
        *_shortened([_subdataset_line(one) for one in subdatasets]),
        *([("inline", _inline_text(inline))] if inline else []),
        *_shortened([_inline_line(one) for one in inline]),
        ("commit", row.commit),
        ("tree", row.tree),
        ("state", row.state),
        *([("metadata", row.metadata)] if row.metadata else []),
        ("swhid", row.swhid),
        ("dataset id", dataset.dataset_id),
        *[(f"see ({kind})", address) for kind, address in links],
        *([("last visit", _visit_text(visit))] if visit is not None else []),
        *[("failed", f"{one.task}: {one.message} (since {one.since})") for one in failures],
        ("clone", shown.clone),
    ]
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


def _evidence_text(evidence: Mapping[str, int], counts: EvidenceCounts) -> str:
    """Format the number of files per kind of evidence, and who computed the checksums."""
    checked = sum(counts.checked.values())
    text = format_counts(evidence)
    if not checked:
        return f"{text} (claimed by upstream)"
    if checked == sum(evidence.values()):
        return f"{text} (checked: hashed here)"
    return f"{text} ({format_counts(counts.checked)} checked here, others claimed by upstream)"


def _retention_text(counts: EvidenceCounts) -> str:
    """Format how long upstream promises to keep the files."""
    text = format_counts(counts.retention)
    return f"{text} ({_EXPIRES})" if Retention.DRAFT in counts.retention else text


def _copy_text(copy: CopyRow) -> str:
    """Format another dataset that has the same files and a stronger retention."""
    files = f"{copy.files} file{'s' if copy.files != 1 else ''}"
    return f"{files} in {copy.dataset} ({copy.retention.value})"


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


def _subdatasets_text(subdatasets: Sequence[SubdatasetRow]) -> str:
    files, size = sum(one.files for one in subdatasets), sum(one.bytes for one in subdatasets)
    return f"{len(subdatasets)} with {files} files, {format_bytes(size)}"


def _subdataset_line(one: SubdatasetRow) -> str:
    version = one.label or one.commit[:12]
    return f"{one.path}: {version}, {one.files} files, {format_bytes(one.bytes)}"


def _form_text(version: VersionRow) -> str:
    size = format_bytes(version.manifest_only_bytes)
    return f"manifest ({version.manifest_only_files} files, {size}, in the manifest but not in git)"


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
        edge = relative.edge
        yield end(edge, version or "")
        yield from (f"  {line}" for line in _relative_lines(relative.relatives, edge.label, end))
        if relative.is_truncated:
            yield "  …"
    if len(relatives) > _MAX_SHOWN:
        yield f"… and {len(relatives) - _MAX_SHOWN} more (--json lists all)"
