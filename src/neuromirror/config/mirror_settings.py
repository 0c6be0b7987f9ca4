"""The settings in a mirror file, by table."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from neuromirror.net import ListingLimits, RequestPolicy, validate_contact


class GuardSettings(BaseModel):
    """The ``[guards]`` table: when a listing is held until an operator releases it."""

    model_config = ConfigDict(extra="forbid")

    max_removed_percent: float = Field(
        default=10,
        ge=0,
        le=100,
        description="Hold a state that loses more than this percentage of its files …",
    )
    max_removed_files: int = Field(
        default=10,
        ge=0,
        description="… and more than this many files (both limits must be exceeded).",
    )
    settle_minutes: float = Field(
        default=0,
        ge=0,
        description="Mirror a new dataset only once its newest file is this many minutes old.",
    )


class ZarrLimits(BaseModel):
    """The ``[zarr]`` table: the numbers of files at which the form of a Zarr changes."""

    model_config = ConfigDict(extra="forbid")

    inline: int = Field(
        default=50_000,
        ge=0,
        description="A Zarr with more files than this becomes a subdataset …",
    )
    manifest: int = Field(
        default=500_000,
        ge=0,
        description="… and with more than this, a subdataset whose chunks are listed in a manifest "
        "and not in git.",
    )
    inline_components: int = Field(
        default=1_000,
        ge=0,
        description="A Zarr asset with fewer files than this is stored inline, as a folder of "
        "files in its dandiset; larger ones are subdatasets (0: all of them are).",
    )
    index_entries: int = Field(
        default=10_000,
        ge=0,
        description="The files of a subdataset are in the index only if there are at most this "
        "many (0: never); of a larger one the index has only the version, and the store the "
        "files.",
    )


class NetSettings(BaseModel):
    """The ``[net]`` table: the contact address and the request limits.

    The limits apply to each host to which the archive leads.
    """

    model_config = ConfigDict(extra="forbid")

    contact: str | None = Field(
        default=None,
        description="Contact address for the operators of the archive: mailto:… or a web page. It "
        "is sent in the User-Agent header of every request.",
    )
    connections_per_host: int | None = Field(
        default=None, ge=1, le=256, description="Concurrent requests per host (16)."
    )
    requests_per_second: float | None = Field(
        default=None, gt=0, le=10_000, description="Requests per second and host (no limit)."
    )

    @field_validator("contact")
    @classmethod
    def _contact(cls, contact: str | None) -> str | None:
        return None if contact is None else validate_contact(contact)

    def request_policy(self) -> RequestPolicy:
        """Return the request policy of a session with these settings.

        Returns
        -------
        RequestPolicy
            The policy, without the limits of listings.
        """
        return RequestPolicy(self.contact, self.connections_per_host, self.requests_per_second)


class ListingSettings(BaseModel):
    """The ``[listing]`` table: limits beyond which a listing is refused."""

    model_config = ConfigDict(extra="forbid")

    max_entries: int = Field(
        default=ListingLimits().entries,
        ge=1,
        description="Refuse a listing with more objects, object versions, folders or rows.",
    )
    max_gigabytes: float = Field(
        default=ListingLimits().bytes / 2**30,
        gt=0,
        description="Refuse a listing whose pages are larger in total (GiB, decompressed).",
    )
    max_hours: float = Field(
        default=ListingLimits().seconds / 3600,
        gt=0,
        description="Refuse a listing that takes longer.",
    )
    max_datasets: int = Field(
        default=1_000_000, ge=1, description="Refuse an archive that lists more datasets."
    )

    def limits(self) -> ListingLimits:
        """Return the listing limits of a session with these settings."""
        size = int(self.max_gigabytes * 2**30)
        return ListingLimits(self.max_entries, size, self.max_hours * 3600)


class ScheduleSettings(BaseModel):
    """The ``[schedule]`` table: how often a service visits the archive; see docs/operate.md."""

    model_config = ConfigDict(extra="forbid")

    list_minutes: float = Field(
        default=60, ge=1, description="Read the archive's overview this often."
    )
    min_hours: float = Field(
        default=6,
        gt=0,
        description="Where only a visit can detect changes: interval between visits of a dataset "
        "that changes every time …",
    )
    max_days: float = Field(
        default=30,
        gt=0,
        description="… and of one that never changes; the others are in between.",
    )
    deep_days: float = Field(
        default=90,
        ge=0,
        description="Visit each dataset at least this often, even if the overview reports no "
        "change (0: never).",
    )
    workers: int = Field(
        default=4, ge=1, le=64, description="Datasets of this mirror visited concurrently."
    )


class MirrorFile(BaseModel):
    """The content of a mirror file; the name of the file without ``.toml`` is the mirror's name."""

    model_config = ConfigDict(extra="forbid", title="neuromirror mirror file")

    source: str = Field(description="The kind of archive: an entry point of 'neuromirror.sources'.")
    title: str = Field(default="", description="Title for people; the mirror's name if empty.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the source; see its page."
    )
    guards: GuardSettings = GuardSettings()
    zarr: ZarrLimits = ZarrLimits()
    net: NetSettings = NetSettings()
    listing: ListingSettings = ListingSettings()
    schedule: ScheduleSettings = ScheduleSettings()
