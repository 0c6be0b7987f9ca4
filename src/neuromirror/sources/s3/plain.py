"""The profile of a bucket without known sidecars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from neuromirror.model import DatasetFacts, Document
from neuromirror.sources.s3.profile import Profile


def _is_no_document(_path: bytes) -> bool:
    return False


def _normalize(_path: bytes, content: bytes) -> bytes:
    return content


def _facts(name: str, _documents: Sequence[Document], _refused: Sequence[bytes]) -> DatasetFacts:
    return DatasetFacts(title=name)


PLAIN: Final = Profile(is_document=_is_no_document, normalize=_normalize, facts=_facts)
