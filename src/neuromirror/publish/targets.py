"""Create the repositories of siblings: on forges by DataLad, elsewhere by git."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

from msgspec import Struct

from neuromirror.config.sibling_files import Sibling, SiblingFile
from neuromirror.git import REMOTE_OPTIONS, git_environment, run_git
from neuromirror.model import NeuromirrorError
from neuromirror.net import InvalidJsonError, NetError, Session, TokenSource, only_host_of, redact

_SECONDS: Final = 60
_REMOTE: Final = "sibling"
_GENERAL_REASONS: Final = ("unauthorized", "forbidden", "rate limit")
"""Parts of DataLad's messages about failures that are the same for all datasets."""


class SiblingError(NeuromirrorError):
    """A repository could not be created or updated at a sibling.

    Attributes
    ----------
    is_general
        Whether the reason is the same for all datasets, such as a refused token.
    """

    def __init__(self, message: str, *, is_general: bool = False) -> None:
        super().__init__(message)
        self.is_general = is_general


class Target(Struct, frozen=True):
    """A repository at a sibling.

    Attributes
    ----------
    url
        The URL for pushes.
    page
        The address of its web page; empty without one.
    created
        Whether it was created just now.
    """

    url: str
    page: str = ""
    created: bool = False


class RepositoryText(Struct, frozen=True):
    """The texts that a forge shows about a repository.

    Attributes
    ----------
    name
        Name of the repository, or its URL for type ``git``.
    description, homepage
        Texts; empty without one.
    topics
        Topics.
    branch
        The default branch.
    """

    name: str
    description: str
    homepage: str
    topics: tuple[str, ...]
    branch: str


class SiblingHost:
    """Creates repositories at one sibling, and sets what it shows about them.

    Parameters
    ----------
    sibling
        The sibling.
    """

    def __init__(self, sibling: Sibling) -> None:
        self._sibling = sibling
        self._settings = sibling.settings

    def ensure_repository(self, repository: Path, text: RepositoryText) -> Target:
        """Return the repository of a dataset at the sibling; create it if it is missing.

        Parameters
        ----------
        repository
            The dataset's repository in the store.
        text
            Name and description.

        Returns
        -------
        Target
            Where to push.

        Raises
        ------
        SiblingError
            The repository cannot be created.
        """
        if self._settings.type == "git":
            return _ensure_git_repository(text.name, text.branch)
        target = self._create_on_forge(repository, text)
        if target.created:
            time.sleep(self._settings.pause_seconds)
        return target

    def describe(self, text: RepositoryText) -> None:
        """Set description, homepage, topics and default branch of a repository on a forge.

        To be called after the first push, because the default branch must exist.

        Parameters
        ----------
        text
            What to set.

        Raises
        ------
        SiblingError
            The forge refuses a change.
        """
        update = _UPDATES.get(self._settings.type)
        if update is not None:
            update(self._settings, self._owner_and_name(text), text, self._token())

    def push_configuration(self, url: str) -> tuple[list[str], dict[str, str]]:
        """Return git's options and environment for a push to a repository of the sibling.

        The token is passed in the environment, and only for the host of the API.

        Parameters
        ----------
        url
            The URL of the repository.

        Returns
        -------
        list of str
            Options before ``push``.
        dict of str to str
            Variables.
        """
        options = list(REMOTE_OPTIONS)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            return options, {"GIT_SSH_COMMAND": shlex.join(_ssh_command())}
        if self._settings.type in ("git", "gitlab"):
            return options, {}
        self._check_push_url(url)
        host = f"{parts.scheme}://{parts.netloc}"
        helper = (
            '!f() { test "$1" = get && echo username=neuromirror && '
            'echo "password=$NEUROMIRROR_PUSH_TOKEN"; }; f'
        )
        options += ["-c", "credential.helper=", "-c", f"credential.{host}.helper={helper}"]
        return options, {"NEUROMIRROR_PUSH_TOKEN": self._token()}

    def _owner_and_name(self, text: RepositoryText) -> str:
        owner = self._settings.owner or self._user()
        return f"{owner}/{text.name}"

    def _user(self) -> str:
        paths = {"github": "user", "gitea": "api/v1/user", "gin": "api/v1/user"}
        path = paths[self._settings.type]
        found = _request(self._settings.api, path, self._token())
        return str(found.get("login") or found.get("username") or "")

    def _token(self) -> str:
        """Return the token of the credential, from DataLad's settings, environment or keyring."""
        if self._settings.type == "gitlab":
            return ""
        from datalad import cfg
        from datalad.downloaders.credentials import Token

        cfg.reload(force=True)  # a service runs for longer than a token is valid
        name = self._credential
        credential = Token(name)
        if not credential.is_known:
            section = name.upper().replace("-", "__").replace(".", "_")
            raise SiblingError(
                f"sibling {self._sibling.name}: there is no token named {name!r}; set it with "
                f"'datalad credentials set {name}', or in the variable "
                f"DATALAD_CREDENTIAL_{section}_TOKEN",
                is_general=True,
            )
        return str(credential()["token"])

    @property
    def _credential(self) -> str:
        return self._settings.credential or urlsplit(self._settings.api).netloc

    def _create_on_forge(self, repository: Path, text: RepositoryText) -> Target:
        """Create the repository with DataLad's command for the forge, unless it exists."""
        self._token()  # DataLad would ask for a missing one
        with tempfile.TemporaryDirectory(prefix="neuromirror-") as folder:
            scratch = Path(folder, "repository")
            # DataLad writes the sibling into the configuration, which ours must not be
            run_git(repository, "clone", "-q", "--bare", "--shared", str(repository), str(scratch))
            results = self._run_datalad(scratch, text)
        failed = [result for result in results if result["status"] in ("error", "impossible")]
        if failed or not results:
            message = _datalad_message(failed[0]) if failed else "no result"
            raise SiblingError(
                f"sibling {self._sibling.name}: {text.name} cannot be created: {redact(message)}",
                is_general=any(reason in message.casefold() for reason in _GENERAL_REASONS),
            )
        made = results[0]
        attributes = made.get("project_attributes") or made
        protocol = "ssh_url" if self._settings.access == "ssh" else "clone_url"
        gitlab = "ssh_url_to_repo" if self._settings.access == "ssh" else "http_url_to_repo"
        url = str(attributes.get(protocol) or attributes.get(gitlab) or "")
        self._check_push_url(url)
        page = str(attributes.get("html_url") or attributes.get("web_url") or "")
        return Target(url, page, created=made["status"] == "ok" and not made.get("preexisted"))

    def _run_datalad(self, scratch: Path, text: RepositoryText) -> list[Mapping[str, Any]]:
        from datalad import api

        settings = self._settings
        common: dict[str, Any] = {
            "dataset": str(scratch),
            "name": _REMOTE,
            "existing": "reconfigure",
            "description": text.description or None,
            "result_renderer": "disabled",
            "return_type": "list",
            "on_failure": "ignore",
        }
        try:
            if settings.type == "gitlab":
                project = f"{settings.owner}/{text.name}"
                found = api.create_sibling_gitlab(
                    site=settings.site,
                    project=project,
                    access="ssh" if settings.access == "ssh" else "http",
                    **common,
                )
            else:
                create = {
                    "github": api.create_sibling_github,
                    "gitea": api.create_sibling_gitea,
                    "gin": api.create_sibling_gin,
                }[settings.type]
                owner = f"{settings.owner}/" if settings.owner else ""
                found = create(
                    f"{owner}{text.name}",
                    api=settings.api,
                    credential=self._credential,
                    access_protocol=settings.access,
                    private=settings.private,
                    **common,
                )
        except Exception as error:  # DataLad lets those of requests and python-gitlab through
            raise SiblingError(
                f"sibling {self._sibling.name}: {settings.api or settings.site}: "
                f"{redact(str(error) or type(error).__name__)}",
                is_general=True,
            ) from error
        return [one for one in found if str(one["action"]).startswith("create_sibling")]

    def _check_push_url(self, url: str) -> None:
        """Refuse a URL on another host than the API's: it would get the token."""
        if self._settings.type == "gitlab" or self._settings.access == "ssh":
            if url and not url.startswith("-"):
                return
        else:
            api, push = urlsplit(self._settings.api), urlsplit(url)
            hosts = {api.netloc, api.netloc.removeprefix("api.")}
            if push.scheme == api.scheme and push.netloc in hosts:
                return
        raise SiblingError(
            f"sibling {self._sibling.name}: {self._settings.api} named {redact(url)!r} as the URL "
            "for pushes, which is on another host; nothing was pushed",
            is_general=True,
        )


def _datalad_message(result: Mapping[str, Any]) -> str:
    message = result.get("message") or result.get("exception") or "unknown error"
    if isinstance(message, tuple):
        return str(message[0]) % message[1:]
    return str(message)


# --- forges' own settings, which DataLad does not set


class _ForgeToken(TokenSource):
    """The token of a credential of DataLad."""

    label = "the credential of the sibling"

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token

    def read(self) -> str:
        return self._token

    known = read


def _request(
    api: str, path: str, token: str, method: str = "GET", content: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    url = urljoin(f"{api.rstrip('/')}/", path)
    tokens = {api: _ForgeToken(token)}
    try:
        with Session(is_private_allowed=only_host_of(api), tokens=tokens) as session:
            reply = session.send_json(method, url, content)
    except InvalidJsonError:
        reply = {}
    except NetError as error:
        status = getattr(error, "status", None) or 503
        is_general = status in (401, 403, 429) or status >= 500
        raise SiblingError(f"{method} {error}", is_general=is_general) from error
    return reply if isinstance(reply, dict) else {}


def _update_forge(
    settings: SiblingFile,
    path: str,
    text: RepositoryText,
    token: str,
    *,
    repositories: str,
    homepage: str,
    topics: str,
) -> None:
    """Set the texts with an API like that of GitHub, which has other names for some fields."""
    content: dict[str, Any] = {"description": text.description, "default_branch": text.branch}
    if text.homepage:
        content[homepage] = text.homepage
    where = f"{repositories}/{quote(path)}"
    _request(settings.api, where, token, "PATCH", content)
    _request(settings.api, f"{where}/topics", token, "PUT", {topics: list(text.topics)})


def _update_gitlab(settings: SiblingFile, path: str, text: RepositoryText, _token: str) -> None:
    import gitlab  # of DataLad's command, which needs it too

    try:
        project = gitlab.Gitlab.from_config(settings.site).projects.get(path)
        project.description = text.description
        project.default_branch = text.branch
        project.topics = list(text.topics)
        project.save()
    except gitlab.GitlabError as error:
        raise SiblingError(f"GitLab site {settings.site}: {path}: {redact(str(error))}") from error


_UPDATES: Final[Mapping[str, Callable[[SiblingFile, str, RepositoryText, str], None]]] = {
    "github": partial(_update_forge, repositories="repos", homepage="homepage", topics="names"),
    "gitea": partial(
        _update_forge, repositories="api/v1/repos", homepage="website", topics="topics"
    ),
    "gitlab": _update_gitlab,
}
"""GIN has neither topics nor homepages."""


# --- other git servers


def _ensure_git_repository(url: str, branch: str) -> Target:
    """Create a bare repository at a path or over SSH unless it exists; other URLs must exist."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return Target(url)
    if parts.scheme == "ssh":
        return Target(url, created=_create_over_ssh(url, branch))
    path = Path(parts.path if parts.scheme == "file" else url)
    if parts.scheme not in ("", "file") or not path.is_absolute():
        raise SiblingError(
            f"{url}: write ssh://host/path, https://host/path or an absolute path", is_general=True
        )
    if (path / "HEAD").exists():
        return Target(str(path))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SiblingError(f"{path}: cannot be created: {error.strerror}") from error
    run_git(path, "init", "-q", "--bare", f"--initial-branch={branch}", str(path))
    return Target(str(path), created=True)


def _ssh_command() -> list[str]:
    """Return the user's command for SSH, which must neither ask nor wait for ever."""
    return [
        *shlex.split(os.environ.get("GIT_SSH_COMMAND", "ssh")),
        *("-oBatchMode=yes", "-oConnectTimeout=30", "-oServerAliveInterval=30"),
    ]


def _create_over_ssh(url: str, branch: str) -> bool:
    """Create a bare repository by ``git init`` over SSH; return whether it was missing."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host or host.startswith("-") or (parts.username or "").startswith("-"):
        raise SiblingError(f"{url}: not an SSH URL of a host", is_general=True)
    path = shlex.quote(parts.path[1:] if parts.path.startswith("/~") else parts.path)
    command = (
        f"test -e {path}/HEAD || {{ git init -q --bare {path} && "
        f"git --git-dir={path} symbolic-ref HEAD refs/heads/{branch} && echo created; }}"
    )
    ssh = _ssh_command()
    port = ["-p", str(parts.port)] if parts.port else []
    user = f"{parts.username}@" if parts.username else ""
    try:
        done = subprocess.run(
            [*ssh, *port, "--", f"{user}{host}", command],
            env=git_environment(None, credentials=True),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SiblingError(f"{url}: {error}", is_general=True) from error
    if done.returncode:
        raise SiblingError(
            f"{url}: 'git init' over SSH failed: {redact(done.stderr.strip())[-500:]}",
            is_general=done.returncode == 255,  # of ssh itself
        )
    return "created" in done.stdout
