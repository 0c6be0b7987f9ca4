"""The ``[options]`` of mirrors of buckets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal, Self

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from neuromirror.model import DatasetFacts, Document
from neuromirror.net import AwsSigner, RequestLimits, Session, bucket_url, is_local_name, origin
from neuromirror.sources.options import SourceOptions, base_address


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


_CREDENTIALS_ARE_ELSEWHERE: Final = 'set credentials = "aws" and profile'

Depth = Annotated[int, Field(ge=0, le=32)]


def _normalize_prefix(prefix: str) -> str:
    """Return a prefix without a leading slash and with a final one."""
    if prefix.startswith("/"):
        raise ValueError("a prefix must not start with a slash")
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def _normalize_address(address: str | None) -> str | None:
    return None if address is None else base_address(address, _CREDENTIALS_ARE_ELSEWHERE)


class DatasetOverride(BaseModel):
    """Another depth of datasets for everything below one prefix.

    ``prefix`` is the whole prefix in the bucket; ``depth`` is counted from the mirror's prefix,
    like the mirror's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefix: str = Field(min_length=1)
    depth: Depth

    _normal = field_validator("prefix")(_normalize_prefix)


class BucketOptions(SourceOptions):
    """The common ``[options]`` of mirrors of buckets.

    Attributes
    ----------
    bucket, region, endpoint
        The bucket; ``endpoint`` is the base URL of another service than AWS.
    credentials
        With ``aws``, requests to the bucket are signed with the credentials that botocore finds;
        without, they are anonymous.
    profile
        The profile of ``~/.aws/config`` with the credentials; by default as botocore chooses.
    requester_pays
        Whether to accept that the account of the credentials pays for requests and downloads.
    private
        Whether the datasets go to the private store; by default if there are credentials.
    prefix
        Only this part of the bucket is mirrored.
    exclude
        Shell patterns of prefixes that are skipped.
    overwrites
        What different bytes under the same key are: an ``incident`` or a new ``version``.
    etags
        What single-part ETags are: ``md5``, ``opaque``, or detected in each listing (``probe``).
    history_gap_minutes
        Changes with shorter pauses between them count as one earlier state.
    connections
        Number of parallel requests.
    allow_private
        Whether the bucket is on this machine or network. By default derived from ``endpoint``.
    """

    bucket: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$")
    region: str = Field(default="us-east-1", pattern=r"^[a-z0-9-]{1,40}$")
    endpoint: str | None = None
    prefix: str = ""
    exclude: tuple[str, ...] = ()
    overwrites: Literal["incident", "version"] | None = None
    etags: Literal["probe", "md5", "opaque"] = "probe"
    history_gap_minutes: int = Field(default=60, ge=1)
    connections: int = Field(default=8, ge=1, le=64)
    allow_private: bool | None = None
    credentials: Literal["aws"] | None = None
    profile: str | None = Field(default=None, pattern=r"^[^\x00-\x1f\x7f'\"]{1,200}$")
    requester_pays: bool = False
    private: bool | None = None

    _normal = field_validator("prefix")(_normalize_prefix)

    @model_validator(mode="after")
    def _check_credentials(self) -> Self:
        if self.credentials is None:
            for name in ("profile", "requester_pays", "private"):
                if getattr(self, name):
                    raise ValueError(f'{name} needs credentials = "aws"')
        return self

    @property
    def is_private(self) -> bool:
        """Whether the datasets may be in the private store only."""
        return self.credentials is not None and self.private is not False

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, address: str | None) -> str | None:
        return _normalize_address(address)

    @property
    def overwrites_are_incidents(self) -> bool:
        """Whether different bytes under the same key are an incident."""
        return self.overwrites == "incident"

    def session(self) -> Session:
        """Return a session with enough connections per host, and a signature if configured."""
        private = self.allow_private
        if private is None:
            private = any(
                is_local_name(origin(address)[1]) for address in self._configured_addresses()
            )
        limits = RequestLimits(per_host=max(16, 2 * self.connections))
        return Session(allow_private=private, limits=limits, signer=self._signer())

    def requirements(self) -> tuple[str, ...]:
        """Return the credentials that the bucket needs."""
        if self.credentials is None:
            return ()
        return ("AWS credentials" if self.profile is None else f"the AWS profile {self.profile}",)

    def clone_settings(self) -> dict[str, str]:
        """Return profile, region, endpoint and requester-pays of a bucket with credentials."""
        if self.credentials is None:
            return {}
        is_stated = self.endpoint is not None or "region" in self.model_fields_set
        settings = {
            "profile": self.profile,
            "region": self.region if is_stated else None,
            "endpoint": self.endpoint,
            "requester-pays": "true" if self.requester_pays else None,
        }
        return {
            f"neuromirror.{self.bucket}.{name}": value for name, value in settings.items() if value
        }

    def _signer(self) -> AwsSigner | None:
        if self.credentials is None:
            return None
        return AwsSigner(
            bucket_url(self.bucket, self.region, self.endpoint),
            region=self.region,
            profile=self.profile,
            requester_pays=self.requester_pays,
        )

    def _configured_addresses(self) -> list[str]:
        """Return the addresses in these options."""
        return [] if self.endpoint is None else [self.endpoint]


class S3Options(BucketOptions):
    """The ``[options]`` of a mirror of a bucket.

    Attributes
    ----------
    depth
        Number of levels below ``prefix`` at which the datasets' roots are; 0 makes the prefix the
        only dataset.
    datasets
        Other depths below some prefixes.
    layout
        The publisher's naming rules and sidecars. With ``aind``, ``overwrites`` is ``incident`` by
        default.
    docdb
        URL of a DocDB's ``find``.
    """

    depth: Depth = 1
    datasets: tuple[DatasetOverride, ...] = ()
    layout: Literal["plain", "aind"] = "plain"
    docdb: str | None = None

    @field_validator("docdb")
    @classmethod
    def _docdb(cls, address: str | None) -> str | None:
        return _normalize_address(address)

    @model_validator(mode="after")
    def _check_nesting(self) -> S3Options:
        """Raise ValueError if a dataset would be within another one, or outside the mirror."""
        if len({inner.prefix for inner in self.datasets}) < len(self.datasets):
            raise ValueError("two of the datasets have the same prefix")
        for inner in self.datasets:
            if not inner.prefix.startswith(self.prefix) or inner.prefix == self.prefix:
                raise ValueError(f"datasets: {inner.prefix} is not below the mirror's prefix")
            level = inner.prefix.removeprefix(self.prefix).count("/")
            others = [other for other in self.datasets if other is not inner]
            around = max(
                (other for other in others if inner.prefix.startswith(other.prefix)),
                key=lambda other: len(other.prefix),
                default=None,
            )
            limit = self.depth if around is None else around.depth
            if level > limit:
                raise ValueError(
                    f"datasets: {inner.prefix} is inside of a dataset (depth {limit}); increase the"
                    " depth of the prefix above it"
                )
            if inner.depth < level:
                raise ValueError(
                    f"datasets: the depth of {inner.prefix} must be at least {level}, which makes"
                    " it one dataset"
                )
        return self

    @property
    def overwrites_are_incidents(self) -> bool:
        """Whether other bytes under the same key are an incident."""
        return (self.overwrites or ("incident" if self.layout == "aind" else "")) == "incident"

    def _configured_addresses(self) -> list[str]:
        return [*super()._configured_addresses(), *([] if self.docdb is None else [self.docdb])]
