"""Mirror files: one TOML file per mirror, validated before any request is made."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.config.mirror_settings import MirrorFile
from neuromirror.config.toml_files import check_file_name, load_toml, read_toml
from neuromirror.model import ConfigurationError, DatasetRef
from neuromirror.sources import Source, SourceOptions, open_source, source_options
from neuromirror.sources.dandi_client import api_key_variable, instance_at
from neuromirror.sources.volumes.tokens import token_variable

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
