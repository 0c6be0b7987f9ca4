"""What a kind of bucket means by its names and sidecars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neuromirror.model import DatasetFacts, Document


@dataclass(frozen=True, slots=True)
class Profile:
    """The rules of one publisher of buckets.

    ``is_document`` says whether a path below a dataset's root is a sidecar, to be committed as a
    plain git file; ``kept`` gives what is kept of its content, without what moves by itself;
    ``facts`` reads what the sidecars say of a dataset with this local id, whatever they hold; it
    is given the paths of sidecars that are listed and may not be read, too.
    """

    is_document: Callable[[bytes], bool]
    normalize: Callable[[bytes, bytes], bytes]
    facts: Callable[[str, Sequence[Document], Sequence[bytes]], DatasetFacts]
