"""Sibling files: one TOML file per place to which the repositories of a store are published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, model_validator

from neuromirror.config.toml_files import check_file_name, load_toml
from neuromirror.model.errors import ConfigurationError

SiblingType = Literal["github", "gitlab", "gitea", "gin", "git"]

_TOPIC = re.compile(r"[a-z0-9][a-z0-9-]{0,49}\Z")
_FIELDS = frozenset({"name", "alias", "mirror", "id", "title"})
_DEFAULT_APIS: Mapping[str, str] = {
    "github": "https://api.github.com",
    "gin": "https://gin.g-node.org",
}


class SiblingFile(BaseModel):
    """The settings of a sibling file.

    ``url``, ``repository``, ``description`` and ``homepage`` may contain ``{name}`` (dandi:000027),
    ``{alias}`` (dandi--000027), ``{mirror}`` (dandi), ``{id}`` (000027) and ``{title}``.
    """

    model_config = ConfigDict(extra="forbid")

    type: SiblingType = Field(
        description="The forge: github, gitlab, gitea (also Forgejo), gin; or git, any git server."
    )
    url: str = Field(
        default="", description="For type git: the URL or path of each repository, with {alias}."
    )
    api: str = Field(
        default="", description="Address of the forge's API, for gitea, or an own GitHub or GIN."
    )
    site: str = Field(
        default="", description="For gitlab: the section of python-gitlab's configuration file."
    )
    owner: str = Field(
        default="",
        description="The organization, user or group that owns the repositories; by default, the "
        "user to whom the credential belongs.",
    )
    credential: str = Field(
        default="",
        description="Name of the DataLad credential with the token; by default, the API's host.",
    )
    access: Literal["https", "ssh"] = Field(
        default="https", description="The protocol of pushes to a forge."
    )
    private: bool = Field(default=False, description="Whether to create private repositories.")
    repository: str = Field(default="{alias}", description="Name of each repository on a forge.")
    description: str = Field(default="{title}", description="Description of each repository.")
    homepage: str = Field(default="", description="Homepage of each repository.")
    topics: list[str] = Field(
        default=["datalad", "neuroscience"], description="Topics of each repository."
    )
    datasets: list[str] = Field(
        default=[],
        description="Patterns of datasets that the service keeps published, such as dandi:*.",
    )
    vaults: bool = Field(
        default=False,
        description="Whether to publish the branch custody/git-annex, which names your vaults and "
        "the paths or URLs at which clones find copies.",
    )
    max_file_megabytes: float = Field(
        default=100, gt=0, description="Refuse a repository with a larger file in git (MB)."
    )
    pause_seconds: float = Field(
        default=1, ge=0, description="Wait this long after each repository that was created."
    )

    @model_validator(mode="after")
    def _check(self) -> SiblingFile:
        if self.type == "git":
            if "{alias}" not in self.url and not {"{mirror}", "{id}"} <= set(
                re.findall(r"\{\w+\}", self.url)
            ):
                raise ValueError("'url' must contain {alias}, because each dataset needs its own")
        elif self.url:
            raise ValueError("'url' is for type git; a forge needs 'api'")
        if self.type == "gitea" and not self.api:
            raise ValueError("'api' is missing: the address of the forge")
        if self.type == "gitlab" and not (self.site and self.owner):
            raise ValueError("gitlab needs 'site' and 'owner'")
        if self.type == "gitlab" and self.private:
            raise ValueError("'private' does not work with gitlab: set the visibility there")
        self.api = self.api or _DEFAULT_APIS.get(self.type, "")
        if self.api and urlsplit(self.api).scheme not in ("https", "http"):
            raise ValueError("'api' must be an http or https address")
        for field in ("url", "repository", "description", "homepage"):
            _check_template(field, getattr(self, field))
        for topic in self.topics:
            if not _TOPIC.match(topic):
                raise ValueError(
                    f"topic {topic!r}: at most 50 lower-case letters, digits and hyphens"
                )
        return self


class Sibling(Struct, frozen=True):
    """A place to which repositories are published.

    Attributes
    ----------
    name
        The name of its file without ``.toml``.
    settings
        Its settings.
    """

    name: str
    settings: SiblingFile


def load_sibling(path: Path) -> Sibling:
    """Read and check a sibling file.

    Parameters
    ----------
    path
        The file, ``<name>.toml``.

    Returns
    -------
    Sibling
        The sibling.

    Raises
    ------
    ConfigurationError
        The name or the content of the file is invalid, or it cannot be read.
    """
    name = check_file_name(path, "sibling")
    return Sibling(name, load_toml(path, SiblingFile.model_validate))


def load_siblings(folder: Path) -> dict[str, Sibling]:
    """Read all sibling files of a folder.

    Parameters
    ----------
    folder
        The folder; it may be missing.

    Returns
    -------
    dict of str to Sibling
        The siblings by name, sorted.

    Raises
    ------
    ConfigurationError
        A file is invalid.
    """
    return {path.stem: load_sibling(path) for path in sorted(folder.glob("*.toml"))}


def refuse_unbound_credentials(folder: Path) -> None:
    """Refuse sibling files that send a credential of the user to a server of their choice.

    Use it for a folder that the user did not name: it may have come with a repository of others.
    Without ``credential``, the credential has the name of the server.

    Parameters
    ----------
    folder
        The folder; it may be missing.

    Raises
    ------
    ConfigurationError
        If a file does this.
    """
    for path in sorted(folder.glob("*.toml")):
        try:
            settings = load_sibling(path).settings
        except ConfigurationError:
            continue  # reported when it is used
        if settings.credential and settings.api != _DEFAULT_APIS.get(settings.type):
            raise ConfigurationError(
                f"{path}: would send the credential {settings.credential} to {settings.api}. A "
                f"folder {folder} may be from others; if this file is your own, set "
                f"NEUROMIRROR_SIBLINGS={folder}"
            )


def _check_template(field: str, template: str) -> None:
    try:
        names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ValueError(f"'{field}': {error} in {template!r}") from error
    if unknown := sorted(names - _FIELDS):
        known = ", ".join(f"{{{one}}}" for one in sorted(_FIELDS))
        raise ValueError(f"'{field}': unknown {{{unknown[0]}}}; known: {known}")
