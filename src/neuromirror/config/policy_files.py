"""The file ``policies.toml`` beside the vault files: what a lab keeps, and in which vaults."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime, time, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from neuromirror.config.toml_files import is_file_name, load_toml
from neuromirror.config.vault_files import POLICY_FILE
from neuromirror.model import ConfigurationError

_DATASET = re.compile(r"[a-z0-9*?-]+:\S+\Z")
_HOURS = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)\Z")
_GIGABYTE = 10**9
_MEGABYTE = 10**6
_MAX_DAYS = 36_500
_MAX_NUMBER = 1e12


class Policy(BaseModel):
    """A ``[[keep]]`` table: which content is kept, and in which vaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Name of the policy: lower-case letters, digits and hyphens.")
    what: Literal["pins", "published", "all"] = Field(
        description="'pins': the pinned files of lock files; 'published': all published versions; "
        "'all': all versions, also observed ones."
    )
    locks: tuple[str, ...] = Field(
        default=(),
        description="For 'pins': lock files, folders (with their subfolders) and git repositories "
        "(the files of all branches and tags), relative to this file.",
    )
    mirrors: tuple[str, ...] = Field(default=(), description="Only these mirrors [all].")
    datasets: tuple[str, ...] = Field(
        default=(), description="Only datasets that match a pattern, such as 'dandi:0000*' [all]."
    )
    keywords: tuple[str, ...] = Field(
        default=(), description="Only datasets that a search for one of these texts finds [all]."
    )
    paths: tuple[str, ...] = Field(
        default=(), description="Only files that match a glob, as 'neuromirror pin --path' [all]."
    )
    vaults: tuple[str, ...] = Field(
        min_length=1, description="Names of vaults, the first preferred."
    )
    copies: int | None = Field(
        default=None,
        ge=1,
        description="Number of these vaults that hold a copy of each content [all of them].",
    )
    max_gigabytes: float | None = Field(
        default=None,
        gt=0,
        le=_MAX_NUMBER,
        description="Maximum size of the contents of this policy in each vault (1 GB = 10^9 "
        "bytes) [no limit].",
    )
    megabytes_per_second: float | None = Field(
        default=None,
        gt=0,
        le=_MAX_NUMBER,
        description="Maximum rate of copying (1 MB = 10^6 bytes) [no limit].",
    )
    hours: str | None = Field(
        default=None,
        description="Copy only at these hours (UTC), such as '20:00-06:00' [always]. Content that "
        "upstream may delete within 'announce_days' is copied at any time.",
    )

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not is_file_name(name):
            raise ValueError(f"{name!r} is not lower-case letters, digits and single hyphens")
        return name

    @field_validator("datasets")
    @classmethod
    def _datasets(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for one in patterns:
            if not _DATASET.match(one):
                raise ValueError(f"{one!r} is not a pattern of datasets, such as 'dandi:0000*'")
        return patterns

    @field_validator("hours")
    @classmethod
    def _hours(cls, hours: str | None) -> str | None:
        if hours is not None:
            _parse_hours(hours)
        return hours

    @model_validator(mode="after")
    def _check(self) -> Policy:
        if (self.what == "pins") != bool(self.locks):
            raise ValueError("'locks' is required for what = \"pins\", and allowed only there")
        if len(set(self.vaults)) < len(self.vaults):
            raise ValueError("'vaults' names a vault twice")
        if self.copies is not None and self.copies > len(self.vaults):
            raise ValueError(f"'copies' is {self.copies}, but there are {len(self.vaults)} vaults")
        return self

    @property
    def required_copies(self) -> int:
        """The number of copies required of each content."""
        return len(self.vaults) if self.copies is None else self.copies

    @property
    def max_bytes(self) -> int | None:
        """The maximum size in each vault in bytes; None for no limit."""
        return None if self.max_gigabytes is None else int(self.max_gigabytes * _GIGABYTE)

    @property
    def bytes_per_second(self) -> float | None:
        """The maximum rate in bytes per second; None for no limit."""
        rate = self.megabytes_per_second
        return None if rate is None else rate * _MEGABYTE

    def selects(self, dataset: str) -> bool:
        """Return whether ``mirrors`` and ``datasets`` select a dataset, ``<mirror>:<local id>``."""
        mirror = dataset.partition(":")[0]
        return (not self.mirrors or mirror in self.mirrors) and (
            not self.datasets or any(fnmatchcase(dataset, one) for one in self.datasets)
        )

    def is_open_at(self, moment: datetime) -> bool:
        """Return whether ``hours`` include a time.

        Parameters
        ----------
        moment
            The time, with a time zone.
        """
        if self.hours is None:
            return True
        begin, end = _parse_hours(self.hours)
        now = moment.astimezone(UTC).time()
        return begin <= now < end if begin < end else now >= begin or now < end

    @property
    def open_share(self) -> float:
        """The share of a day that ``hours`` include."""
        if self.hours is None:
            return 1.0
        begin, end = (
            timedelta(hours=at.hour, minutes=at.minute) for at in _parse_hours(self.hours)
        )
        day = timedelta(days=1)
        return ((end - begin) % day or day) / day


class PolicyFile(BaseModel):
    """The content of ``policies.toml``."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="neuromirror policies")

    keep: tuple[Policy, ...] = Field(default=(), description="The policies, most important first.")
    draft_days: float = Field(
        default=30,
        ge=0,
        le=_MAX_DAYS,
        description="Days for which an archive keeps the content of a draft after its replacement.",
    )
    announce_days: float = Field(
        default=14,
        ge=7,
        le=_MAX_DAYS,
        description="Announce content that lacks copies this many days before upstream may delete "
        "it.",
    )
    full_read_days: float = Field(
        default=180,
        gt=0,
        le=_MAX_DAYS,
        description="The service reads and hashes every content of every vault within this time.",
    )
    drill_days: float = Field(
        default=30,
        ge=0,
        le=_MAX_DAYS,
        description="The service restores each lock file of a policy from the vaults alone after "
        "this time (0: never).",
    )
    minimum_copies: int = Field(
        default=1,
        ge=1,
        description="'neuromirror drop' leaves at least this many copies in other vaults.",
    )

    @model_validator(mode="after")
    def _check(self) -> PolicyFile:
        names = [one.name for one in self.keep]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two policies have the name {twice!r}")
        return self


class Policies(Struct, frozen=True):
    """The policies of a folder of vault files.

    Attributes
    ----------
    path
        The path of ``policies.toml``, which need not exist.
    settings
        The settings in the file; the defaults without a file.
    """

    path: Path
    settings: PolicyFile

    @property
    def announce(self) -> timedelta:
        """The time before a deletion upstream at which missing copies are announced."""
        return timedelta(days=self.settings.announce_days)

    def find(self, names: tuple[str, ...]) -> tuple[Policy, ...]:
        """Return the policies with these names; all of them for no name.

        Raises
        ------
        ConfigurationError
            A name is unknown, or there is no policy.
        """
        known = {one.name: one for one in self.settings.keep}
        if not known:
            raise ConfigurationError(
                f"{self.path}: there is no policy; add a [[keep]] table with name, what and vaults"
            )
        for name in names:
            if name not in known:
                raise ConfigurationError(
                    f"unknown policy '{name}'; {self.path} has {', '.join(known)}"
                )
        return tuple(known[name] for name in names) if names else self.settings.keep


def load_policies(folder: Path, vaults: Collection[str] | None = None) -> Policies:
    """Load the policies in a folder of vault files.

    Parameters
    ----------
    folder
        The folder.
    vaults
        The names of the known vaults; None to accept any name.

    Returns
    -------
    Policies
        The policies; none if the folder has no ``policies.toml``.

    Raises
    ------
    ConfigurationError
        If the file cannot be read or is invalid, or names an unknown vault.
    """
    path = folder / POLICY_FILE
    if not path.exists():
        return Policies(path, PolicyFile())
    settings = load_toml(path, PolicyFile.model_validate)
    for policy in settings.keep:
        for name in policy.vaults:
            if vaults is not None and name not in vaults:
                known = ", ".join(sorted(vaults)) or "none"
                raise ConfigurationError(
                    f"{path}: policy '{policy.name}' names the vault '{name}', which has no file "
                    f"{folder / name}.toml; known vaults: {known}"
                )
    return Policies(path, settings)


def _parse_hours(text: str) -> tuple[time, time]:
    found = _HOURS.match(text)
    try:
        if found is None:
            raise ValueError
        numbers = [int(one) for one in found.groups()]
        begin = time(numbers[0], numbers[1])
        end = time(0) if numbers[2:] == [24, 0] else time(numbers[2], numbers[3])
    except ValueError:
        raise ValueError(f"{text!r} are not hours such as '20:00-06:00'") from None
    return begin, end
