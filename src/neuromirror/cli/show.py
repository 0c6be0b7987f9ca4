"""``neuromirror show``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from neuromirror.cli.browse import (
    MAX_SHOWN,
    NOT_INDEXED,
    format_counts,
    subdataset_json,
    version_json,
)
from neuromirror.cli.common import (
    Settings,
    format_traffic,
    settings_options,
    split_version,
)
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

_REMOVED = " (gone upstream; what is mirrored is kept)"
_EXPIRES = "what a draft no longer lists, upstream may delete"


@click.command("show")
@click.argument("version")
@settings_options
def show_command(settings: Settings, version: str) -> None:
    """Show all that is known of a VERSION.

    VERSION is a name such as dandi:000027@0.210831.2033. The label may also be latest (the
    default: the newest published version, or the draft where nothing is published), draft, a
    commit id or state:<hex>. Each dataset that is derived from this one is told by its newest
    version that was made of this version, else by its newest one and what that was made of. Told
    is the dataset's last visit, too, and what it asked of the archive; of visits in a row that
    find nothing new only the first is recorded.
    """
    name, label = split_version(version)
    with settings.index() as index:
        dataset = index.dataset(name)
        row = index.resolve(name, label)
        exceptions = index.exceptions(row)
        attributes = index.attributes(row)
        parts = list(index.subdatasets(row))
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
    record = {
        **version_json(name, row),
        "title": row.title,
        "license": row.license,
        "source": dataset.source_uri,
        "dataset_id": dataset.dataset_id,
        "swhid": f"swh:1:rev:{row.commit}",
        "annex_commit": row.annex_commit,
        "gone": dataset.is_removed_upstream,
        "checked": evidence.checked,
        "retention": evidence.retention,
        "copies": [asdict(one) for one in copies],
        "places": location_health,
        "part_of": superdatasets,
        "attributes": attributes,
        "links": [{"kind": kind, "url": address} for kind, address in links],
        "derived_from": [_relative_json(one, "derived_from") for one in ancestors],
        "derivatives": [_relative_json(one, "derivatives") for one in descendants],
        "form": row.form or None,
        "manifest_only": {"files": row.manifest_only_files, "bytes": row.manifest_only_bytes},
        "parts": [subdataset_json(one) for one in parts],
        "inline": inline,
        "exceptions": exceptions,
        "last_visit": None if visit is None else asdict(visit),
        "failures": [asdict(one) for one in failures],
        "clone": f"datalad clone 'ria+file://{location}#~{alias}@{row.label}'",
    }
    settings.emit("show", record)
    if settings.json:
        return
    settings.print_text(f"{name}@{row.label}")
    left_out = [f"{one['path']}: {one['detail']}" for one in exceptions]
    lines = [
        ("title", row.title),
        ("kind", f"{row.kind} ({row.upstream})" + ", metadata only" * row.metadata_only),
        ("time", row.upstream_time or f"observed {row.recorded_at} (upstream gives none)"),
        (
            "source",
            dataset.source_uri
            + " (gone upstream: what is mirrored is kept)" * dataset.is_removed_upstream,
        ),
        ("doi", row.doi or "-"),
        ("license", ", ".join(row.license) or "-"),
        *[(name, ", ".join(values)) for name, values in attributes.items()],
        *[("part of", one) for one in superdatasets],
        ("files", f"{row.files}, {format_bytes(row.bytes)} ({row.bytes} bytes)"),
        *([("form", _form_text(row))] if row.form == "manifest" else []),
        *([] if row.indexed else [("index", NOT_INDEXED)]),
        ("evidence", _evidence_text(row.evidence, evidence)),
        *([("kept", _retention_text(evidence))] if evidence.retention else []),
        *[("another copy", _copy_text(one)) for one in copies],
        *([("places", _location_health_text(location_health))] if location_health else []),
        ("left out", f"{len(exceptions)} listed upstream but not mirrored" if exceptions else "0"),
        *_shortened(left_out),
        *([("parts", _subdatasets_text(parts))] if parts else []),
        *_shortened([_subdataset_line(one) for one in parts]),
        *([("inline", _inline_text(inline))] if inline else []),
        *_shortened([_inline_line(one) for one in inline]),
        ("commit", row.commit),
        ("tree", row.tree),
        ("state", row.state),
        *([("metadata", row.metadata)] if row.metadata else []),
        ("swhid", record["swhid"]),
        ("dataset id", dataset.dataset_id),
        *[(f"see ({kind})", address) for kind, address in links],
        *([("last visit", _visit_text(visit))] if visit is not None else []),
        *[("failed", f"{one.task}: {one.message} (since {one.since})") for one in failures],
        ("clone", record["clone"]),
    ]
    width = max(11, *(len(head) for head, _ in lines))
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


def _evidence_text(evidence: Mapping[str, int], vouched: EvidenceCounts) -> str:
    """What is proved of the files, by the words of Evidence, and who says so."""
    checked = sum(vouched.checked.values())
    text = format_counts(evidence)
    if not checked:
        return f"{text} (claimed by upstream)"
    if checked == sum(evidence.values()):
        return f"{text} (checked: hashed here)"
    return f"{text} ({format_counts(vouched.checked)} checked here, others claimed by upstream)"


def _retention_text(vouched: EvidenceCounts) -> str:
    """How long upstream keeps the files, by the words of Retention."""
    text = format_counts(vouched.retention)
    return f"{text} ({_EXPIRES})" if Retention.DRAFT in vouched.retention else text


def _copy_text(copy: CopyRow) -> str:
    """Another dataset with the same bytes, and its stronger promise."""
    files = f"{copy.files} file{'s' if copy.files != 1 else ''}"
    return f"{files} in {copy.dataset} ({copy.retention.value})"


def _visit_text(visit: VisitRow) -> str:
    traffic = f": {format_traffic(visit.traffic)}" if visit.traffic else ""
    return f"{visit.ended}, {visit.status}{traffic}"


def _location_health_text(counts: dict[str, int]) -> str:
    text = ", ".join(f"{count} {health}" for health, count in counts.items())
    return f"asked last, {text} (neuromirror audit)"


def _shortened(lines: Sequence[str]) -> list[tuple[str, str]]:
    """The first lines below a head, and how many there are more."""
    more = [f"… and {len(lines) - MAX_SHOWN} more (--json lists all)"] * (len(lines) > MAX_SHOWN)
    return [("", line) for line in [*lines[:MAX_SHOWN], *more]]


def _subdatasets_text(parts: Sequence[SubdatasetRow]) -> str:
    files, size = sum(one.files for one in parts), sum(one.bytes for one in parts)
    return f"{len(parts)}, datasets of their own with {files} files, {format_bytes(size)}"


def _subdataset_line(part: SubdatasetRow) -> str:
    version = part.label or part.commit[:12]
    return f"{part.path}: {version}, {part.files} files, {format_bytes(part.bytes)}"


def _form_text(version: VersionRow) -> str:
    size = format_bytes(version.manifest_only_bytes)
    return (
        f"manifest ({version.manifest_only_files} files, {size}, in the manifest only, not in git)"
    )


def _inline_text(inline: Sequence[dict[str, Any]]) -> str:
    files, size = sum(one["files"] for one in inline), sum(one["bytes"] for one in inline)
    return f"{len(inline)}, Zarrs as folders of files here, {files} of them, {format_bytes(size)}"


def _inline_line(one: dict[str, Any]) -> str:
    return f"{one['path']}: {one['checksum']}, {one['files']} files, {format_bytes(one['bytes'])}"


def _relative_json(relative: RelatedVersion, key: str) -> dict[str, Any]:
    edge = relative.edge
    return {
        "name": edge.name,
        "dataset": edge.dataset,
        "version": edge.label,
        "of": edge.own_label,
        key: [_relative_json(one, key) for one in relative.relatives],
        "more": relative.is_truncated,
    }


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
    """A line for each relative of a version, those that go on from it set in."""
    for relative in relatives[:MAX_SHOWN]:
        edge = relative.edge
        yield end(edge, version or "")
        yield from (f"  {line}" for line in _relative_lines(relative.relatives, edge.label, end))
        if relative.is_truncated:
            yield "  …"
    if len(relatives) > MAX_SHOWN:
        yield f"… and {len(relatives) - MAX_SHOWN} more (--json lists all)"
