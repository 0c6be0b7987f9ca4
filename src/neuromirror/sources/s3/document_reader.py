"""Reading a dataset's small metadata files from its bucket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from neuromirror.annex import find_pointer_key
from neuromirror.model import Document
from neuromirror.net import (
    AccessDeniedError,
    InvalidJsonError,
    NotFoundError,
    ObjectChangedError,
    ObjectRow,
    ResponseTooLargeError,
    S3Bucket,
)
from neuromirror.sources.errors import UnreliableListingError
from neuromirror.sources.s3.local_ids import display_key
from neuromirror.sources.s3.object_claims import ClaimResolver
from neuromirror.sources.s3.profile import Profile
from neuromirror.sources.s3.sidecars import MAX_DOCUMENT_BYTES, without_secrets


@dataclass(frozen=True, slots=True)
class DocumentReader:
    """Reads the documents of one listing.

    Attributes
    ----------
    dataset_name
        The dataset's name, for messages.
    bucket, prefix
        The dataset's objects.
    profile
        Normalizes the documents' content.
    claim_resolver
        Looks up objects again that could not be read.
    version_id
        Returns the version id by which a row's object is read; None for the newest.
    on_refused
        Called if the bucket refuses to return a document.
    """

    dataset_name: str
    bucket: S3Bucket
    prefix: bytes
    profile: Profile
    claim_resolver: ClaimResolver
    version_id: Callable[[ObjectRow], str | None]
    on_refused: Callable[[], None]

    def read(self, row: ObjectRow) -> tuple[Document, bool] | None:
        """Return a document and whether secrets were removed; None if it cannot be one.

        Raises
        ------
        UnreliableListingError
            If the object is not the listed one.
        """
        path = row.key[len(self.prefix) :]
        version_id = self.version_id(row)
        try:
            content = self.bucket.read(
                row.key, version_id=version_id, etag=row.etag, limit=MAX_DOCUMENT_BYTES + 1
            )
        except AccessDeniedError:
            self.on_refused()
            return None
        except (InvalidJsonError, ResponseTooLargeError):
            return None  # an unsupported content encoding, or too large once decoded
        except (NotFoundError, ObjectChangedError) as error:
            if self.claim_resolver.still_listed(row, version_id):
                return None
            raise UnreliableListingError(f"{self.dataset_name}: {error}") from error
        if len(content) != row.size and not self._is_encoded(row):
            if self.claim_resolver.still_listed(row, version_id):
                return None
            raise UnreliableListingError(
                f"{self.dataset_name}: {display_key(row.key)!r} was listed with {row.size} bytes,"
                f" but has {len(content)}"
            )
        normalized = self.profile.normalize(path, content)
        cleaned = without_secrets(normalized)
        if find_pointer_key(cleaned) is not None:
            return None  # git-annex would take a plain file for the pointer of another file
        return Document(path, cleaned, row.modified), cleaned != normalized

    def _is_encoded(self, row: ObjectRow) -> bool:
        """Return whether the object has a content encoding, which reading it decodes."""
        headers = self.claim_resolver.headers(row, self.version_id(row))
        if headers is None:
            self.on_refused()
            return False
        return bool(headers.get("Content-Encoding"))
