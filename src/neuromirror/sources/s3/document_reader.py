"""Reading a dataset's small metadata files from its bucket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct, field

from neuromirror.annex import find_pointer_key
from neuromirror.model import Document, ExcludedEntry
from neuromirror.net import (
    AccessDeniedError,
    CredentialsRefusedError,
    HttpError,
    InvalidJsonError,
    NotFoundError,
    ObjectChangedError,
    ObjectRow,
    ResponseTooLargeError,
    S3Bucket,
    WrongRegionError,
)
from neuromirror.sources.errors import UnreliableListingError
from neuromirror.sources.s3.local_ids import display_key
from neuromirror.sources.s3.object_claims import REFUSED_STATUSES, ClaimResolver
from neuromirror.sources.s3.profile import Profile
from neuromirror.sources.s3.sidecars import MAX_DOCUMENT_BYTES, without_secrets

SIDECAR_REFUSED: Final = "sidecar-refused"
"""Why a document is left out that its bucket lists and refuses to return."""
REFUSED_DETAIL: Final = "the bucket lists the metadata file, and refuses to return it"
"""Part of the format: it is committed in ``dataset.json``."""


class DocumentReader(Struct, frozen=True):
    """Reads the documents of one listing. Thread-safe.

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
    record_refusal
        Records the URL of a refused document; returns whether the refusal is lasting.
    """

    dataset_name: str
    bucket: S3Bucket
    prefix: bytes
    profile: Profile
    claim_resolver: ClaimResolver
    version_id: Callable[[ObjectRow], str | None]
    record_refusal: Callable[[str], bool]
    _passing: list[AccessDeniedError] = field(default_factory=list)

    def check_refusals(self) -> None:
        """Raise AccessDeniedError if a document was refused and the refusal may be temporary.

        Call it after all documents were read, so that every refusal is recorded.
        """
        if self._passing:
            raise self._passing[0]

    def read(self, row: ObjectRow) -> tuple[Document, bool] | ExcludedEntry | None:
        """Return a document and whether secrets were removed; None if it cannot be one.

        A document that the bucket refuses is an exception; see :meth:`check_refusals`.

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
        except (InvalidJsonError, ResponseTooLargeError):
            return None  # an unsupported content encoding, or too large once decoded
        except (NotFoundError, ObjectChangedError) as error:
            if self.claim_resolver.still_listed(row, version_id):
                return None
            raise UnreliableListingError(f"{self.dataset_name}: {error}") from error
        except HttpError as error:
            if error.status not in REFUSED_STATUSES or isinstance(
                error, CredentialsRefusedError | WrongRegionError
            ):
                raise
            return self._refused_entry(row, error)
        if len(content) != row.size:
            headers = self.claim_resolver.headers(row, version_id)
            if headers is None:
                return self._refused_entry(row)
            if not headers.get("Content-Encoding"):  # which reading the object decodes
                if self.claim_resolver.still_listed(row, version_id):
                    return None
                raise UnreliableListingError(
                    f"{self.dataset_name}: {display_key(row.key)!r} was listed with {row.size}"
                    f" bytes, but has {len(content)}"
                )
        normalized = self.profile.normalize(path, content)
        cleaned = without_secrets(normalized)
        if find_pointer_key(cleaned) is not None:
            return None  # git-annex would take a plain file for the pointer of another file
        return Document(path, cleaned, row.modified), cleaned != normalized

    def _refused_entry(self, row: ObjectRow, error: HttpError | None = None) -> ExcludedEntry:
        """Return the exception for a refused document, and record the refusal."""
        # the plain URL, so that all versions of a document count as one object
        url = self.bucket.object_url(row.key)
        if not self.record_refusal(url):
            refused = AccessDeniedError(
                f"{url}: the bucket refuses the sidecar, which it lists ({error or 'HEAD'}); the"
                " next sync requests it again",
                url=url,
                status=None if error is None else error.status,
            )
            self._passing.append(refused)
        path = row.key[len(self.prefix) :]
        return ExcludedEntry(path, SIDECAR_REFUSED, REFUSED_DETAIL, row.size)
