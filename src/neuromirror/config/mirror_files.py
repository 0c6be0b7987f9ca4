"""Declared mirrors: one TOML file each in a folder, checked before anything else happens."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from neuromirror.model import ConfigurationError, DatasetRef
from neuromirror.net import ListingLimits, RequestPolicy, validate_contact
from neuromirror.sources import Source, open_source

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")

_RESERVED_NAMES = frozenset({"neuromirror"})
"""The alias of the super-dataset above all mirrors."""

_EXAMPLE = """
    source = "dandi"
    [options]
    api = "https://api.dandiarchive.org/api\""""
"""The shortest mirror file that does something."""


class GuardSettings(BaseModel):
    """When a listing is held until an operator releases it."""

    model_config = ConfigDict(extra="forbid")

    max_removed_percent: float = Field(
        default=10,
        ge=0,
        le=100,
        description="Hold a state that loses more than this share of its files …",
    )
    max_removed_files: int = Field(
        default=10, ge=0, description="… and more than this many files (both must be passed)."
    )
    settle_minutes: float = Field(
        default=0,
        ge=0,
        description="Mirror a new dataset only when its newest file is this many minutes old.",
    )


class ZarrLimits(BaseModel):
    """How many files a Zarr may have before it is mirrored, or indexed, in another form."""

    model_config = ConfigDict(extra="forbid")

    inline: int = Field(
        default=50_000,
        ge=0,
        description="A Zarr of more files than this becomes a sub-dataset of its own …",
    )
    manifest: int = Field(
        default=500_000,
        ge=0,
        description="… and of more than this, one whose chunks are in a manifest, not in git.",
    )
    inline_parts: int = Field(
        default=1_000,
        ge=0,
        description="A Zarr asset of fewer files than this stands in its dandiset as a folder of "
        "ordinary files; others are sub-datasets of their own (0: all of them).",
    )
    index_entries: int = Field(
        default=10_000,
        ge=0,
        description="The files of a sub-dataset are in the index only if they are at most this "
        "many (0: never); of others the index has the state, and the store its files.",
    )


class NetSettings(BaseModel):
    """Who asks the archive, and how hard; all hosts that it leads to are asked alike."""

    model_config = ConfigDict(extra="forbid")

    contact: str | None = Field(
        default=None,
        description="Where those who run the archive can reach you: mailto:… or a web page. It is "
        "in the agent string of every request.",
    )
    connections_per_host: int | None = Field(
        default=None, ge=1, le=256, description="Requests at one host at a time (16)."
    )
    requests_per_second: float | None = Field(
        default=None, gt=0, le=10_000, description="Requests that begin at one host in a second."
    )

    @field_validator("contact")
    @classmethod
    def _contact(cls, contact: str | None) -> str | None:
        return None if contact is None else validate_contact(contact)

    def request_policy(self) -> RequestPolicy:
        """The same for a session."""
        return RequestPolicy(self.contact, self.connections_per_host, self.requests_per_second)


class ListingSettings(BaseModel):
    """How much of one listing is read before it is refused, so that each has an end."""

    model_config = ConfigDict(extra="forbid")

    max_entries: int = Field(
        default=ListingLimits().entries,
        ge=1,
        description="Refuse a listing of more objects, object versions, folders or rows.",
    )
    max_gigabytes: float = Field(
        default=ListingLimits().bytes / 2**30,
        gt=0,
        description="Refuse a listing whose pages are larger in all (GiB, decompressed).",
    )
    max_hours: float = Field(
        default=ListingLimits().seconds / 3600,
        gt=0,
        description="Refuse a listing that has not ended after so long.",
    )
    max_datasets: int = Field(
        default=1_000_000, ge=1, description="Refuse an archive that lists more datasets."
    )

    def limits(self) -> ListingLimits:
        """Return the limits for a session."""
        size = int(self.max_gigabytes * 2**30)
        return ListingLimits(self.max_entries, size, self.max_hours * 3600)


class ScheduleSettings(BaseModel):
    """How often a service looks at the archive; see docs/service.md."""

    model_config = ConfigDict(extra="forbid")

    list_minutes: float = Field(
        default=60, ge=1, description="Read the archive's overview this often."
    )
    least_hours: float = Field(
        default=6,
        gt=0,
        description="Where only a visit can tell whether a dataset changed: visit one that keeps "
        "changing this often …",
    )
    most_days: float = Field(
        default=30, gt=0, description="… and one that never does this often, the others between."
    )
    deep_days: float = Field(
        default=90,
        ge=0,
        description="Visit each dataset this often whatever the overview says (0: never).",
    )
    workers: int = Field(
        default=4, ge=1, le=64, description="Datasets of this mirror visited at a time."
    )


class MirrorFile(BaseModel):
    """What a mirror's TOML file may say; the file's name without .toml is the mirror's name."""

    model_config = ConfigDict(extra="forbid", title="neuromirror mirror file")

    source: str = Field(description="The kind of archive: an entry point of 'neuromirror.sources'.")
    title: str = Field(default="", description="What people read; the mirror's name if empty.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="The source's own options; see its page."
    )
    guards: GuardSettings = GuardSettings()
    zarr: ZarrLimits = ZarrLimits()
    net: NetSettings = NetSettings()
    listing: ListingSettings = ListingSettings()
    schedule: ScheduleSettings = ScheduleSettings()


@dataclass(frozen=True, slots=True)
class Mirror:
    """One mirror: its name, its file, and what the file says."""

    name: str
    path: Path
    settings: MirrorFile

    def open(self) -> Source:
        """The mirror's source; raises ConfigurationError for wrong options."""
        try:
            settings = self.settings
            policy = replace(settings.net.request_policy(), listing=settings.listing.limits())
            return open_source(settings.source, self.name, settings.options, policy)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.path}: {error}") from error

    def superdataset(self, uri: str) -> DatasetRef:
        """The mirror's super-dataset, whose alias is the mirror's name."""
        return DatasetRef(self.name, "", uri)


def load_mirror(path: Path) -> Mirror:
    """The mirror of one file; raises ConfigurationError that names file, field and remedy."""
    name = path.stem
    if not _NAME.match(name) or name in _RESERVED_NAMES:
        raise ConfigurationError(
            f"{path}: '{name}' cannot be a mirror's name; use lower-case letters, digits and "
            f"single hyphens, and not {' or '.join(sorted(_RESERVED_NAMES))}"
        )
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # also UTF-8, and numbers of too many digits
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return Mirror(name, path, MirrorFile.model_validate(content))
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_describe_errors(error)}") from error


def _describe_errors(error: ValidationError) -> str:
    found = []
    for one in error.errors(include_url=False):
        where = ".".join(str(key) for key in one["loc"])
        if one["type"] == "extra_forbidden":
            found.append(f"'{where}' is not a setting that exists here")
        else:
            found.append(f"'{where}': {one['msg'].removeprefix('Value error, ')}")
    return "; ".join(found)


def list_mirror_files(folder: Path) -> list[Path]:
    """The mirror files of a folder, by name; raises ConfigurationError when there are none."""
    if not folder.is_dir():
        raise ConfigurationError(
            f"there is no folder of mirrors at {folder}; name it with --mirrors DIR (or "
            f"NEUROMIRROR_MIRRORS), or make it, with a file dandi.toml of three lines:{_EXAMPLE}"
        )
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except OSError as error:
        raise ConfigurationError(
            f"the folder of mirrors {folder} cannot be read: {error.strerror}"
        ) from error
    if not found:
        raise ConfigurationError(
            f"{folder} holds no mirror files; make one, for example dandi.toml of three lines:"
            f"{_EXAMPLE}"
        )
    return found


def load_mirrors(folder: Path) -> dict[str, Mirror]:
    """All mirrors of a folder by name; raises ConfigurationError when there are none."""
    return {path.stem: load_mirror(path) for path in list_mirror_files(folder)}


def find_mirror(mirrors: dict[str, Mirror], name: str) -> Mirror:
    """The mirror of a name; raises ConfigurationError that lists those there are."""
    try:
        return mirrors[name]
    except KeyError:
        known = ", ".join(sorted(mirrors))
        raise ConfigurationError(f"there is no mirror '{name}'; configured are: {known}") from None
