"""The journal entry of a version."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from neuromirror.mint import MintResult
from neuromirror.model import (
    DatasetRef,
    ExcludedEntry,
    InlineComponent,
    SnapshotHeader,
    VersionMinted,
    current_timestamp,
    path_to_text,
)


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
