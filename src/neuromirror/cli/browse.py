"""``neuromirror list``, ``versions``, ``show``, ``files``, ``find`` and ``events``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from neuromirror.cli.common import (
    Settings,
    human_bytes,
    settings_options,
    split_condition,
    split_version,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from neuromirror.index import EdgeRow, FileRow, FoundFile, PartRow, Relative, VersionRow

_SHOWN = 10
"""Lines of a kind that are shown before the rest is only counted."""


@click.command("list")
@click.argument("mirror", required=False)
@click.option(
    "--where",
    "conditions",
    metavar="NAME=VALUE",
    multiple=True,
    help="Only those with this attribute (several: with all). VALUE may end in *.",
)
@click.option("--search", "words", metavar="WORDS", help="Only those that have all the words.")
@click.option("--parts", is_flag=True, help="Those that are parts of another dataset, too.")
@settings_options
def list_command(
    settings: Settings,
    mirror: str | None,
    conditions: tuple[str, ...],
    words: str | None,
    *,
    parts: bool,
) -> None:
    """List the datasets in the store.

    Of one MIRROR or of all. LATEST is the newest published version, or where nothing is published
    the newest state of the draft; FILES and SIZE are of that version. Attributes, such as subject
    or modality, are those that 'neuromirror show' tells, of the version recorded last, whatever
    their case; words are looked for in names, titles, licenses, DOIs and attributes.
    """
    rows = []
    where = [split_condition(condition) for condition in conditions]
    with settings.index() as index:
        for dataset in index.datasets(mirror, where=where, words=words, parts=parts):
            newest = index.resolve(dataset.name) if dataset.versions else None
            record = {
                "dataset": dataset.name,
                "title": dataset.title,
                "dataset_id": dataset.dataset_id,
                "part": bool(dataset.within),
                "version": None if newest is None else newest.label,
                "files": None if newest is None else newest.files,
                "bytes": None if newest is None else newest.bytes,
            }
            settings.emit("list", record)
            if newest is None:
                rows.append([dataset.name, "-", "-", "-", dataset.title])
            else:
                size = human_bytes(newest.bytes)
                rows.append([dataset.name, newest.label, str(newest.files), size, dataset.title])
    settings.table(rows, ["DATASET", "LATEST", "FILES", "SIZE", "TITLE"], ["FILES", "SIZE"])
    if not rows and (conditions or words):
        settings.say("no dataset is like that")
    elif not rows:
        settings.say("the store holds no datasets yet; run 'neuromirror sync'")


@click.command("versions")
@click.argument("dataset")
@settings_options
def versions_command(settings: Settings, dataset: str) -> None:
    """List the versions of a DATASET.

    DATASET is a name such as dandi:000027. Versions stand in the order in which they were
    recorded; KIND is published, or observed for a state of the draft as it was seen, and
    "metadata only" where no file differs from the version before. EVIDENCE says how many files
    are known by which checksum.
    """
    rows = []
    with settings.index() as index:
        for version in index.versions(dataset):
            settings.emit("versions", _version_record(dataset, version))
            rows.append(
                [
                    version.label,
                    version.kind + ", metadata only" * version.metadata_only,
                    str(version.files),
                    human_bytes(version.bytes),
                    _evidence(version.evidence),
                    version.commit[:12],
                ]
            )
    heads = ["VERSION", "KIND", "FILES", "SIZE", "EVIDENCE", "COMMIT"]
    settings.table(rows, heads, ["FILES", "SIZE"])
    if not rows:
        settings.say(f"{dataset} has no versions yet; see 'neuromirror status'")


def _version_record(dataset: str, version: VersionRow) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "version": version.label,
        "name": f"{dataset}@{version.label}",
        "kind": version.kind,
        "upstream": version.upstream,
        "time": version.time,
        "commit": version.commit,
        "tree": version.tree,
        "state": version.state,
        "metadata": version.metadata,
        "files": version.files,
        "bytes": version.bytes,
        "evidence": version.evidence,
        "doi": version.doi,
        "metadata_only": version.metadata_only,
    }


def _evidence(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items()) or "-"


@click.command("show")
@click.argument("version")
@settings_options
def show_command(settings: Settings, version: str) -> None:
    """Show all that is known of a VERSION.

    VERSION is a name such as dandi:000027@0.210831.2033. The label may also be latest (the
    default: the newest published version, or the draft where nothing is published), draft, a
    commit id or state:<hex>. Each dataset that is derived from this one is told by its newest
    version that was made of this version, else by its newest one and what that was made of.
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
    alias = name.replace(":", "--").replace("/", "--")
    location = settings.store_folder.absolute()
    record = {
        **_version_record(name, row),
        "title": row.title,
        "license": row.license,
        "source": dataset.source_uri,
        "dataset_id": dataset.dataset_id,
        "swhid": f"swh:1:rev:{row.commit}",
        "annex_commit": row.annex_commit,
        "part_of": holders,
        "attributes": attributes,
        "derived_from": [_relative(one, "derived_from") for one in ancestors],
        "derivatives": [_relative(one, "derivatives") for one in descendants],
        "form": row.form or None,
        "manifest_only": {"files": row.only_files, "bytes": row.only_bytes},
        "parts": [_part(one) for one in parts],
        "inline": inline,
        "exceptions": exceptions,
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
        ("time", row.time),
        ("source", dataset.source_uri),
        ("doi", row.doi or "-"),
        ("license", ", ".join(row.license) or "-"),
        *[(name, ", ".join(values)) for name, values in attributes.items()],
        *[("part of", one) for one in holders],
        ("files", f"{row.files}, {human_bytes(row.bytes)} ({row.bytes} bytes)"),
        *([("form", _form(row))] if row.form == "manifest" else []),
        ("evidence", f"{_evidence(row.evidence)} (claimed by upstream unless checked)"),
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


def _few(lines: Sequence[str]) -> list[tuple[str, str]]:
    """The first lines below a head, and how many there are more."""
    more = [f"… and {len(lines) - _SHOWN} more (--json lists all)"] * (len(lines) > _SHOWN)
    return [("", line) for line in [*lines[:_SHOWN], *more]]


def _part(part: PartRow) -> dict[str, Any]:
    return {
        "path": part.path,
        "dataset": part.dataset,
        "version": part.label,
        "dataset_id": part.dataset_id,
        "commit": part.commit,
        "state": part.state,
        "files": part.files,
        "bytes": part.bytes,
    }


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
    for relative in relatives[:_SHOWN]:
        edge = relative.edge
        yield end(edge, version or "")
        yield from (f"  {line}" for line in _tree(relative.relatives, edge.label, end))
        if relative.more:
            yield "  …"
    if len(relatives) > _SHOWN:
        yield f"… and {len(relatives) - _SHOWN} more (--json lists all)"


@click.command("files")
@click.argument("version")
@settings_options
def files_command(settings: Settings, version: str) -> None:
    """List the files of a VERSION.

    Each with the strongest checksum that is known of it (or "size" or "none" where there is
    none), whether that is claimed by upstream or was checked here, the size in bytes and the
    path. Exceptions (listed upstream, not mirrored) follow, so that nothing listed is passed over.
    """
    name, label = split_version(version)
    with settings.index() as index:
        row = index.resolve(name, label)
        for file in index.files(row):
            urls = [place.url for place in index.locations(file.content)] if settings.json else []
            record = {"type": "file", "dataset": name, "version": row.label, **_file(file, urls)}
            word = "checked" if file.checked else "claimed"
            digest = _best(file) or file.evidence.value
            settings.emit("files", record, _line(digest, word, file.size, file.path))
        for part in index.parts(row):
            record = {"type": "part", **_part(part), "whole": f"{name}@{row.label}"}
            told = f"{part.dataset}@{part.label or part.commit[:12]}"
            settings.emit("files", record, _line(told, "part", part.bytes, part.path))
        exceptions = index.exceptions(row)
    for one in exceptions:
        record = {"type": "exception", "dataset": name, "version": row.label, **one}
        settings.emit("files", {**record, "status": "impossible", "message": one["detail"]})
        settings.say(_line(f"not mirrored: {one['reason']}", "", one["size"], one["path"]))


def _line(digest: str, word: str, size: int | None, path: str) -> str:
    """A file in columns as wide as a sha256 and a size of up to a terabyte need."""
    return f"{digest:<71}  {word:<7}  {'-' if size is None else size:>13}  {path}"


def _best(file: FileRow | FoundFile) -> str | None:
    """The digest that the evidence names, None where it is by size alone or nothing."""
    for digest in file.digests:
        if digest.algorithm == file.evidence.value:
            return f"{digest.algorithm}:{digest.value}"
    return None


def _file(file: FileRow | FoundFile, urls: Sequence[str]) -> dict[str, Any]:
    return {
        "path": file.path,
        "size": file.size,
        "key": file.key,
        "digest": _best(file),
        "digests": {one.algorithm: one.value for one in file.digests},
        "evidence": file.evidence.value,
        "checked": file.checked,
        "retention": file.retention.value,
        "urls": list(urls),
    }


@click.command("find")
@click.argument("checksum")
@settings_options
def find_command(settings: Settings, checksum: str) -> None:
    """Find a file in all datasets by CHECKSUM.

    sha256:<hex>, md5:<hex>, etag:<md5>-<parts>, bare hex, or a git-annex key. Shows where the
    file is or was, and in which versions. Exit code: 0 found, 1 not found.
    """
    rows = []
    with settings.index() as index:
        for found in index.find(checksum):
            record = {
                "dataset": found.dataset,
                "first": found.first,
                "last": found.last,
                "current": found.current,
                **_file(found, found.urls),
            }
            settings.emit("find", record)
            until = "" if found.last == found.first else f" to {found.last}"
            size = "-" if found.size is None else str(found.size)
            rows.append([found.dataset, f"{found.first}{until}", size, found.path])
    settings.table(sorted(rows), ["DATASET", "VERSIONS", "BYTES", "PATH"], ["BYTES"])
    if not rows:
        message = f"no file with checksum {checksum} is in the index; is its dataset mirrored?"
        settings.emit("find", {"status": "impossible", "message": message}, message)
        sys.exit(1)


@click.command("events")
@click.argument("dataset", required=False)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@settings_options
def events_command(settings: Settings, dataset: str | None, limit: int) -> None:
    """List incidents and other events.

    Of one DATASET or of all, newest first. An incident is data that changed upstream where it
    never should; a tombstone is a dataset that is gone upstream (what is mirrored of it is kept).
    """
    with settings.index() as index:
        events = list(index.events(dataset, limit=limit))
    for event in events:
        line = f"{event.at}  {event.kind:<14} {event.dataset or event.mirror}  {event.message}"
        settings.emit("events", asdict(event), line)
    if not events:
        settings.say("no events")
