"""Mirror files: one TOML file per mirror, validated before any request is made."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from glob import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, Field, field_validator

from neuromirror.config.toml_files import check_file_name, load_toml, read_toml
from neuromirror.model import ConfigurationError, DatasetRef
from neuromirror.net import ListingLimits, RequestPolicy, validate_contact
from neuromirror.sources import Source, SourceOptions, open_source, source_options
from neuromirror.sources.dandi_client import api_key_variable, instance_at
from neuromirror.sources.volumes.urls import token_variable


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
        default=50_000, ge=0, description="A Zarr with more files than this becomes a subdataset …"
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
        default=30, gt=0, description="… and of one that never changes; the others are in between."
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


_T = TypeVar("_T")

_RESERVED_NAMES = frozenset({"neuromirror"})
"""The alias of the superdataset above all mirrors."""

_EXAMPLE = """
    source = "dandi"
    [options]
    api = "https://api.dandiarchive.org/api\""""
"""A minimal mirror file."""


class Mirror(Struct, frozen=True):
    """A configured mirror.

    Attributes
    ----------
    name
        The name of the mirror, which is the name of its file without ``.toml``.
    path
        The path of the file.
    settings
        The settings in the file.
    """

    name: str
    path: Path
    settings: MirrorFile

    def open(self) -> Source:
        """Create the source of the mirror.

        Returns
        -------
        Source
            The source; it has sent no request.

        Raises
        ------
        ConfigurationError
            If the source is unknown or an option of it is invalid.
        """
        try:
            settings = self.settings
            policy = replace(settings.net.request_policy(), listing=settings.listing.limits())
            return open_source(settings.source, self.name, settings.options, policy)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.path}: {error}") from error

    def options(self) -> SourceOptions:
        """Return the checked options of the source, without creating it.

        Returns
        -------
        SourceOptions
            The options.

        Raises
        ------
        ConfigurationError
            If the source is unknown or an option of it is invalid.
        """
        try:
            return source_options(self.settings.source, self.name, self.settings.options)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.path}: {error}") from error

    def superdataset(self, uri: str) -> DatasetRef:
        """Return the mirror's superdataset, whose alias is the mirror's name.

        Parameters
        ----------
        uri
            The source URI of the archive.

        Returns
        -------
        DatasetRef
            The superdataset; its local id is empty.
        """
        return DatasetRef(self.name, "", uri)


def load_mirror(path: Path) -> Mirror:
    """Load a mirror file.

    Parameters
    ----------
    path
        The mirror file.

    Returns
    -------
    Mirror
        The mirror; its source is not opened yet.

    Raises
    ------
    ConfigurationError
        If the file cannot be read or is invalid; the message names the file and the field.
    """
    name = check_file_name(path, "mirror", _RESERVED_NAMES)
    return Mirror(name, path, load_toml(path, MirrorFile.model_validate))


def refuse_unbound_credentials(folder: Path) -> None:
    """Refuse the mirror files of a folder if they choose to which host a credential is sent.

    Use it for a folder that the user did not name: it may have come with a repository of others.

    Parameters
    ----------
    folder
        The folder; it need not exist.

    Raises
    ------
    ConfigurationError
        If a file names a variable with a token of another host, or signs requests to an endpoint.
    """
    for path in sorted(folder.glob("*.toml")):
        options = read_toml(path).get("options")
        if not isinstance(options, dict):
            continue
        api = str(options.get("api", ""))
        host, instance = urlsplit(api).netloc, instance_at(api)
        bound = {token_variable(host)} | ({api_key_variable(instance)} if instance else set())
        chosen = {str(options["token_env"])} if options.get("token_env") else set()
        if options.get("instance"):
            chosen.add(api_key_variable(str(options["instance"])))
        problem = ""
        if chosen - bound:
            problem = f"would send the variable {min(chosen - bound)} to {host or 'its archive'}"
        elif options.get("credentials") and options.get("endpoint"):
            problem = "would sign requests to its endpoint with your credentials"
        if problem:
            raise ConfigurationError(
                f"{path}: {problem}. A folder {folder} may be from others; if this file is your "
                f"own, name the folder with --mirrors {folder}, or set NEUROMIRROR_MIRRORS"
            )


def list_mirror_files(folder: Path, *, allow_empty: bool = False) -> list[Path]:
    """Return the mirror files in a folder, sorted by name.

    Parameters
    ----------
    folder
        The folder.
    allow_empty
        Whether a folder without mirror files is valid.

    Returns
    -------
    list[Path]
        Paths of the ``*.toml`` files.

    Raises
    ------
    ConfigurationError
        If the folder is missing, unreadable or without mirror files.
    """
    if not folder.is_dir():
        raise ConfigurationError(
            f"{folder}: no such folder; pass the folder with the configuration files of mirrors "
            "as --mirrors DIR (or set NEUROMIRROR_MIRRORS), use one of the built-in mirrors "
            "('neuromirror mirrors'), or create the folder with, for example, a file dandi.toml:"
            f"{_EXAMPLE}"
        )
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: the folder with the configuration files of mirrors cannot be read: "
            f"{error.strerror}"
        ) from error
    if not found and not allow_empty:
        raise ConfigurationError(
            f"{folder}: no configuration file of a mirror; use one of the built-in mirrors "
            f"('neuromirror mirrors'), or create a file, for example dandi.toml:{_EXAMPLE}"
        )
    return found


def load_mirrors(folder: Path) -> dict[str, Mirror]:
    """Load all mirror files in a folder.

    Parameters
    ----------
    folder
        The folder with the mirror files.

    Returns
    -------
    dict
        The mirrors by name.

    Raises
    ------
    ConfigurationError
        If there are no mirror files, or one of them is invalid.
    """
    return {path.stem: load_mirror(path) for path in list_mirror_files(folder)}


def find_mirror(mirrors: Mapping[str, _T], name: str) -> _T:
    """Return the mirror, or its file, with a name.

    Parameters
    ----------
    mirrors
        Mirrors or mirror files, by name.
    name
        The name.

    Returns
    -------
    _T
        The value of ``mirrors``.

    Raises
    ------
    ConfigurationError
        If no mirror has that name; the message lists the known ones.
    """
    try:
        return mirrors[name]
    except KeyError:
        known = ", ".join(sorted(mirrors))
        near = get_close_matches(name, mirrors, 1)
        hint = f"did you mean {near[0]}? known: {known}" if near else f"known: {known}"
        raise ConfigurationError(f"unknown mirror '{name}'; {hint}") from None


def builtin_mirror_files() -> dict[str, Path]:
    """Return the paths of the built-in mirror files by the name of the mirror."""
    folder = Path(str(files("neuromirror.config"))) / "mirrors"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def is_builtin(path: Path) -> bool:
    """Return whether a mirror file is part of the package."""
    return builtin_mirror_files().get(path.stem) == path


def known_mirror_files(folder: Path, *, required: bool = False) -> dict[str, Path]:
    """Return the mirror files of a folder and the built-in ones that it does not override.

    Parameters
    ----------
    folder
        The folder of local mirror files; it can be missing or empty.
    required
        Whether a missing folder is an error.

    Raises
    ------
    ConfigurationError
        If the folder cannot be read, or is required and missing.
    """
    local = list_mirror_files(folder, allow_empty=True) if folder.exists() or required else []
    return dict(sorted({**builtin_mirror_files(), **{one.stem: one for one in local}}.items()))


def load_known_mirrors(folder: Path, *, required: bool = False) -> dict[str, Mirror]:
    """Load all mirror files that :func:`known_mirror_files` finds; return them by mirror name.

    Parameters
    ----------
    folder, required
        As for :func:`known_mirror_files`.

    Raises
    ------
    ConfigurationError
        If a file is invalid, or :func:`known_mirror_files` raises it.
    """
    mirror_files = known_mirror_files(folder, required=required)
    return {name: load_mirror(path) for name, path in mirror_files.items()}


def include_named(mirrors: Mapping[str, Mirror], names: Iterable[str]) -> dict[str, Mirror]:
    """Return the mirrors, with the ``include`` of built-in ones extended by the named datasets.

    The ``include`` of a built-in mirror limits only syncs of the whole mirror. The ``include`` of a
    local mirror file also limits syncs of named datasets, and is therefore unchanged.

    Parameters
    ----------
    mirrors
        The mirrors by name.
    names
        Names of mirrors or datasets. Names of unknown mirrors are ignored.
    """
    found = dict(mirrors)
    for name in names:
        mirror_name, _, local_id = name.partition(":")
        mirror = found.get(mirror_name)
        if mirror is None or not local_id or not is_builtin(mirror.path):
            continue
        if chosen := mirror.settings.options.get("include"):
            options = {**mirror.settings.options, "include": [*chosen, escape(local_id)]}
            settings = mirror.settings.model_copy(update={"options": options})
            found[mirror_name] = replace(mirror, settings=settings)
    return found


def mirror_titles(folder: Path) -> dict[str, str]:
    """Return the titles of the known mirrors by name; a mirror without a readable title is omitted.

    Only the titles are read, so that an invalid mirror file is not an error.
    """
    found: dict[str, str] = {}
    try:
        paths = known_mirror_files(folder)
    except ConfigurationError:
        paths = builtin_mirror_files()
    for name, path in paths.items():
        try:
            title = tomllib.loads(path.read_text("utf-8")).get("title")
        except (OSError, ValueError):
            continue
        if isinstance(title, str) and title.strip():
            found[name] = title.strip()
    return found
