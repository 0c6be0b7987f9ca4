"""Names from upstream that become folders, branches, tags and lines of a message.

The sources here give none that git would take for something else; one from elsewhere may.
"""

from __future__ import annotations

from neuromirror.annex import git_path
from neuromirror.model import DatasetRef, NeuromirrorError, VersionRef


class InvalidNameError(NeuromirrorError):
    """A name that git, or a line of text, would take for something else."""


def check_dataset_name(dataset: DatasetRef) -> None:
    """Raises InvalidNameError unless the local id is a path that git takes as it is, and the URI a
    line."""
    name = dataset.local_id
    if not name.isprintable() or name.startswith("-") or git_path(name.encode()) != name.encode():
        raise InvalidNameError(
            f"{dataset.mirror}: {name[:200]!r} cannot be the name of a dataset, since git would "
            "take it for something else; the source must escape it"
        )
    if not dataset.source_uri.isprintable():
        raise InvalidNameError(
            f"{dataset.name}: {dataset.source_uri[:200]!r} is no address; the source must escape it"
        )


def check_version_name(version: VersionRef) -> None:
    """Raises InvalidNameError for a name of more than one line, or one that cannot be shown."""
    if not version.upstream.isprintable():
        raise InvalidNameError(
            f"{version.dataset.name}: {version.upstream[:200]!r} cannot be the name of a version; "
            "nothing of this dataset is minted until upstream renames it"
        )
