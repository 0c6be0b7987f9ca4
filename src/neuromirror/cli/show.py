"""``neuromirror show``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from neuromirror.cli.browse import NOT_THERE, SHOWN, evidence_words, part_record, version_record
from neuromirror.cli.common import (
    Settings,
    settings_options,
    split_version,
    told_traffic,
)
from neuromirror.model import Retention, alias_of, human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from neuromirror.index import CopyRow, EdgeRow, PartRow, Relative, VersionRow, VisitRow, Vouched

_GONE = " (gone upstream; what is mirrored is kept)"
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
        parts = list(index.parts(row))
        inline = index.inline(row)
        ancestors = index.ancestors(row)
        descendants = index.descendants(row)
        holders = index.holders(name)
        visit = next(index.visits(name, limit=1), None)
        links = index.links(name)
        vouched = index.vouched(row)
        copies = index.copies(row)
        ailing = index.ailing_in(row)
        failures = [one for one in index.failures() if one.dataset == name]
    alias = alias_of(name)
    location = settings.store_folder.absolute()
    record = {
        **version_record(name, row),
        "title": row.title,
        "license": row.license,
        "source": dataset.source_uri,
        "dataset_id": dataset.dataset_id,
        "swhid": f"swh:1:rev:{row.commit}",
        "annex_commit": row.annex_commit,
        "gone": dataset.gone,
        "checked": vouched.checked,
        "retention": vouched.kept,
        "copies": [asdict(one) for one in copies],
        "places": ailing,
        "part_of": holders,
        "attributes": attributes,
        "links": [{"kind": kind, "url": address} for kind, address in links],
        "derived_from": [_relative(one, "derived_from") for one in ancestors],
        "derivatives": [_relative(one, "derivatives") for one in descendants],
        "form": row.form or None,
        "manifest_only": {"files": row.only_files, "bytes": row.only_bytes},
        "parts": [part_record(one) for one in parts],
        "inline": inline,
        "exceptions": exceptions,
        "last_visit": None if visit is None else asdict(visit),
        "failures": [asdict(one) for one in failures],
        "clone": f"datalad clone 'ria+file://{location}#~{alias}@{row.label}'",
    }
    settings.emit("show", record)
    if settings.json:
        return
    settings.say(f"{name}@{row.label}")
    left_out = [f"{one['path']}: {one['detail']}" for one in exceptions]
    lines = [
        ("title", row.title),
        ("kind", f"{row.kind} ({row.upstream})" + ", metadata only" * row.metadata_only),
        ("time", row.upstream_time or f"observed {row.minted} (upstream gives none)"),
        (
            "source",
            dataset.source_uri + " (gone upstream: what is mirrored is kept)" * dataset.gone,
        ),
        ("doi", row.doi or "-"),
        ("license", ", ".join(row.license) or "-"),
        *[(name, ", ".join(values)) for name, values in attributes.items()],
        *[("part of", one) for one in holders],
        ("files", f"{row.files}, {human_bytes(row.bytes)} ({row.bytes} bytes)"),
        *([("form", _form(row))] if row.form == "manifest" else []),
        *([] if row.indexed else [("index", NOT_THERE)]),
        ("evidence", _vouched(row.evidence, vouched)),
        *([("kept", _kept(vouched))] if vouched.kept else []),
        *[("another copy", _copy(one)) for one in copies],
        *([("places", _ailing(ailing))] if ailing else []),
        ("left out", f"{len(exceptions)} listed upstream but not mirrored" if exceptions else "0"),
        *_few(left_out),
        *([("parts", _counted(parts))] if parts else []),
        *_few([_part_line(one) for one in parts]),
        *([("inline", _inline_counted(inline))] if inline else []),
        *_few([_inline_line(one) for one in inline]),
        ("commit", row.commit),
        ("tree", row.tree),
        ("state", row.state),
        *([("metadata", row.metadata)] if row.metadata else []),
        ("swhid", record["swhid"]),
        ("dataset id", dataset.dataset_id),
        *[(f"see ({kind})", address) for kind, address in links],
        *([("last visit", _visit(visit))] if visit is not None else []),
        *[("failed", f"{one.task}: {one.message} (since {one.since})") for one in failures],
        ("clone", record["clone"]),
    ]
    width = max(11, *(len(head) for head, _ in lines))
    for head, text in lines:
        settings.say(f"  {head:<{width}} {text}")
    for head, relatives, end in [
        ("derived from", ancestors, _input_name),
        ("derivatives", descendants, _derived_name),
    ]:
        if relatives:
            settings.say(f"  {head}:")
        for line in _tree(relatives, row.label, end):
            settings.say(f"    {line}")


def _vouched(evidence: Mapping[str, int], vouched: Vouched) -> str:
    """What is proved of the files, by the words of Evidence, and who says so."""
    checked = sum(vouched.checked.values())
    words = evidence_words(evidence)
    if not checked:
        return f"{words} (claimed by upstream)"
    if checked == sum(evidence.values()):
        return f"{words} (checked: hashed here)"
    return f"{words} ({evidence_words(vouched.checked)} checked here, others claimed by upstream)"


def _kept(vouched: Vouched) -> str:
    """How long upstream keeps the files, by the words of Retention."""
    words = evidence_words(vouched.kept)
    return f"{words} ({_EXPIRES})" if Retention.DRAFT in vouched.kept else words


def _copy(copy: CopyRow) -> str:
    """Another dataset with the same bytes, and its stronger promise."""
    files = f"{copy.files} file{'s' if copy.files != 1 else ''}"
    return f"{files} in {copy.dataset} ({copy.retention.value})"


def _visit(visit: VisitRow) -> str:
    told = f": {told_traffic(visit.traffic)}" if visit.traffic else ""
    return f"{visit.ended}, {visit.status}{told}"


def _ailing(counts: dict[str, int]) -> str:
    told = ", ".join(f"{count} {word}" for word, count in counts.items())
    return f"asked last, {told} (neuromirror audit)"


def _few(lines: Sequence[str]) -> list[tuple[str, str]]:
    """The first lines below a head, and how many there are more."""
    more = [f"… and {len(lines) - SHOWN} more (--json lists all)"] * (len(lines) > SHOWN)
    return [("", line) for line in [*lines[:SHOWN], *more]]


def _counted(parts: Sequence[PartRow]) -> str:
    files, size = sum(one.files for one in parts), sum(one.bytes for one in parts)
    return f"{len(parts)}, datasets of their own with {files} files, {human_bytes(size)}"


def _part_line(part: PartRow) -> str:
    version = part.label or part.commit[:12]
    return f"{part.path}: {version}, {part.files} files, {human_bytes(part.bytes)}"


def _form(version: VersionRow) -> str:
    size = human_bytes(version.only_bytes)
    return f"manifest ({version.only_files} files, {size}, are outside git, in the manifest only)"


def _inline_counted(inline: Sequence[dict[str, Any]]) -> str:
    files, size = sum(one["files"] for one in inline), sum(one["bytes"] for one in inline)
    return f"{len(inline)}, Zarrs as folders of files here, {files} of them, {human_bytes(size)}"


def _inline_line(one: dict[str, Any]) -> str:
    return f"{one['path']}: {one['checksum']}, {one['files']} files, {human_bytes(one['bytes'])}"


def _relative(relative: Relative, word: str) -> dict[str, Any]:
    edge = relative.edge
    return {
        "name": edge.name,
        "dataset": edge.dataset,
        "version": edge.label,
        "of": edge.of,
        word: [_relative(one, word) for one in relative.relatives],
        "more": relative.more,
    }


def _input_name(edge: EdgeRow, version: str) -> str:
    if edge.dataset is None:
        return f"{edge.name} (not mirrored)"
    return f"{edge.dataset} (no version yet)" if edge.label is None else _named(edge)


def _derived_name(edge: EdgeRow, version: str) -> str:
    return _named(edge) + (f" (of {edge.of})" if edge.of != version else "")


def _named(edge: EdgeRow) -> str:
    return f"{edge.dataset}@{edge.label}"


def _tree(
    relatives: Sequence[Relative], version: str | None, end: Callable[[EdgeRow, str], str]
) -> Iterator[str]:
    """A line for each relative of a version, those that go on from it set in."""
    for relative in relatives[:SHOWN]:
        edge = relative.edge
        yield end(edge, version or "")
        yield from (f"  {line}" for line in _tree(relative.relatives, edge.label, end))
        if relative.more:
            yield "  …"
    if len(relatives) > SHOWN:
        yield f"… and {len(relatives) - SHOWN} more (--json lists all)"
