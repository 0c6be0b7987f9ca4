"""Names of contents in the cache: their digest and size."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

_NAME: Final = re.compile(r"[a-z0-9_]{1,16}-[0-9a-f]{16,128}(?:-[0-9]{1,18})*")


class ContentName(Struct, frozen=True):
    """The identity of a content.

    Attributes
    ----------
    algorithm
        The algorithm of the digest, such as ``sha256``, ``md5`` or ``etag``.
    value
        The digest in hex; for an ETag ``<md5>-<parts>-<part size>``.
    size
        Size of the content in bytes.
    """

    algorithm: str
    value: str
    size: int

    @property
    def is_valid(self) -> bool:
        """Whether algorithm and value have the form of a digest, so that they can name a file."""
        return _NAME.fullmatch(self.file_name) is not None

    @property
    def file_name(self) -> str:
        """The name of the files with the content or its pieces."""
        return f"{self.algorithm}-{self.value}-{self.size}"

    @property
    def folder_name(self) -> str:
        """The name of the folder that contains these files: the first characters of the digest."""
        return self.value[:2]
