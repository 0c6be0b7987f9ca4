"""The journal entry of a version, and labels for states that upstream does not name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from neuromirror.crawl.visit.snapshot import SpooledSnapshot
from neuromirror.mint import MintResult
from neuromirror.model import (
    DatasetRef,
    ExcludedEntry,
    InlineComponent,
    SnapshotHeader,
    VersionMinted,
    current_timestamp,
    metadata_digest,
    path_to_text,
    state_label,
    time_label,
)
from neuromirror.store import TAG_PREFIX


def version_entry(
    dataset: DatasetRef,
    header: SnapshotHeader,
    minted: MintResult,
    label: str,
    *,
    within: str,
    metadata_only: bool,
) -> VersionMinted:
    """Return the journal entry of a new version.

    Parameters
    ----------
    dataset
        The dataset.
    header
        The version's snapshot, with its inline components.
    minted
        The version's commits and counts.
    label
        The version's label.
    within
        The local id of the dataset that contains it, if it is a component.
    metadata_only
        Whether only documents differ from the previous version.
    """
    facts = header.facts
    time = header.version.time
    attributes: dict[str, list[str]] = {}
    for name, value in sorted(facts.attributes):
        attributes.setdefault(name, []).append(value)
    return VersionMinted(
        mirror=dataset.mirror,
        local_id=dataset.local_id,
        source_uri=dataset.source_uri,
        label=label,
        upstream=header.version.upstream,
        kind=header.version.kind.value,
        state=minted.state,
        commit=minted.commit,
        tree=minted.tree,
        annex_commit=minted.annex_commit,
        time=None if time is None else time.astimezone(UTC).isoformat(timespec="seconds"),
        files=minted.files,
        bytes=minted.bytes,
        exceptions=[_exception_fields(one) for one in header.exceptions],
        evidence=dict(sorted(minted.evidence.items())),
        title=facts.title,
        license=list(facts.license),
        doi=facts.doi,
        metadata_only=metadata_only,
        at=current_timestamp(),
        metadata=minted.metadata,
        attributes=attributes,
        inputs=sorted(facts.inputs),
        within=within,
        form=header.form,
        manifest_only_files=minted.manifest_only.files,
        manifest_only_bytes=minted.manifest_only.bytes,
        inline=[_inline_fields(one) for one in header.inline],
        in_subdatasets=minted.in_subdatasets.files,
    )


def _exception_fields(one: ExcludedEntry) -> dict[str, Any]:
    return {
        "path": path_to_text(one.path),
        "reason": one.reason,
        "detail": one.detail,
        "size": one.size,
    }


def _inline_fields(one: InlineComponent) -> dict[str, Any]:
    return {
        "path": path_to_text(one.path),
        "source": one.source_uri,
        "checksum": one.checksum,
        "files": one.files,
        "bytes": one.bytes,
    }


def component_label(snapshot: SpooledSnapshot, state: str, _refs: dict[str, str]) -> str:
    """Return the label of a component's state, ``<time>-<digits>``.

    ``<time>`` is the UTC time of its newest object, ``<digits>`` are the first eight of the state
    digest. Without a time the label is ``state-<digits>``; with documents, eight digits of the
    metadata digest follow. Unlike :func:`free_label` it does not depend on the labels in use, so
    ``_refs`` is ignored.
    """
    digits = state.removeprefix("sha256:")[:8]
    moment, documents = _upstream_time(snapshot), snapshot.header.documents
    if moment is not None:
        return f"{time_label(moment)}-{digits}"
    # without a time, only this distinguishes states that differ just in their documents
    metadata = f"-{metadata_digest(documents).removeprefix('sha256:')[:8]}" if documents else ""
    return f"{state_label(state)}{metadata}"


def _upstream_time(snapshot: SpooledSnapshot) -> datetime | None:
    """Return upstream's time of a state; None if it has none."""
    return snapshot.header.newest or snapshot.header.version.time


def free_label(snapshot: SpooledSnapshot, state: str, refs: dict[str, str]) -> str:
    """Return an unused label for a state: the UTC time of its newest object, or ``state-<digits>``.

    ``<digits>`` are the first eight of the state digest, for a state without a time. They are also
    appended to a time that is in use: ``<time>-<digits>``. If the result is in use, too, it gets
    the first free number from 2: ``<time>-<digits>-2``.

    Parameters
    ----------
    snapshot
        The state, with the times of its objects.
    state
        The state digest, ``sha256:<hex>``.
    refs
        The refs of the repository: object id by name. Labels are in use if they are tags there.

    Returns
    -------
    str
        The label.
    """
    moment = _upstream_time(snapshot)
    label = state_label(state)
    if moment is not None:
        label = time_label(moment)
        if TAG_PREFIX + label in refs:
            label = f"{label}-{state.removeprefix('sha256:')[:8]}"
    if TAG_PREFIX + label not in refs:
        return label
    candidate, number = label, 2
    while TAG_PREFIX + candidate in refs:
        candidate, number = f"{label}-{number}", number + 1
    return candidate
