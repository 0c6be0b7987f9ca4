"""Check names from upstream that become folders, branches, tags and lines of a message.

The built-in sources escape their names; a source from a plug-in may not.
"""

from __future__ import annotations

from neuromirror.annex import git_path
from neuromirror.model import DatasetRef, NeuromirrorError, VersionRef, name_from_alias


class InvalidNameError(NeuromirrorError):
    """Upstream's name of a dataset or version is not usable, for example as a git path."""


def check_dataset_name(dataset: DatasetRef) -> None:
    """Raise InvalidNameError for a name that is not usable.

    The local id must be a git path, no other local id may have its alias, and the URI must be one
    line.
    """
    name = dataset.local_id
    if not name.isprintable() or name.startswith("-") or git_path(name.encode()) != name.encode():
        raise InvalidNameError(
            f"{dataset.mirror}: {name[:200]!r} is not a valid name of a dataset, because git would "
            "misinterpret it; the source must escape it"
        )
    if (other := name_from_alias(dataset.alias)) != dataset.name:
        raise InvalidNameError(
            f"{dataset.name} is not a valid name of a dataset, because its repository, "
            f"{dataset.alias}, would be that of {other}; the source must escape ':' and '--'"
        )
    if not dataset.source_uri.isprintable():
        raise InvalidNameError(
            f"{dataset.name}: {dataset.source_uri[:200]!r} is not a valid URI; the source must "
            "escape it"
        )


def check_version_name(version: VersionRef) -> None:
    """Raise InvalidNameError for a name with line breaks or unprintable characters."""
    if not version.upstream.isprintable():
        raise InvalidNameError(
            f"{version.dataset.name}: {version.upstream[:200]!r} is not a valid name of a version; "
            "nothing of this dataset is published until upstream renames it"
        )
