"""The layout rules of a publisher's buckets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from neuromirror.model import DatasetFacts, Document


class Profile(Struct, frozen=True):
    """The rules of one publisher for its buckets: which files are metadata, and what they mean.

    Attributes
    ----------
    is_document
        Returns whether a path in a dataset is a sidecar, to be committed as a plain git file.
    normalize
        Returns a sidecar's content, given its path and content, without volatile fields.
    facts
        Returns the facts of a dataset, given its local id, the sidecars with any content, and the
        paths of listed sidecars that could not be read.
    """

    is_document: Callable[[bytes], bool] = lambda path: False
    normalize: Callable[[bytes, bytes], bytes] = lambda path, content: content
    facts: Callable[[str, Sequence[Document], Sequence[bytes]], DatasetFacts] = (
        lambda name, documents, refused: DatasetFacts(title=name)
    )


PLAIN: Final = Profile()
"""The profile of a bucket without known sidecars."""
