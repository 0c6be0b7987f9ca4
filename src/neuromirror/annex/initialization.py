"""Initialize git-annex in a clone without enabling remotes that an untrusted origin configures.

``git annex init`` enables each special remote with ``autoenable=true`` in ``remote.log``: it runs
the program named by ``externaltype``, opens ``directory=/etc`` or connects to a ``location``, as
chosen by the author of the dataset. This module enables only the remotes that neuromirror writes:
web remotes, which git-annex restricts by ``annex.security``, neuromirror's own special remote, and
vaults with copies at a URL of a web server. Their lines must be byte-identical to those that
neuromirror writes. git and git-annex only get content from vaults: they neither fetch refs from
them nor write to them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from neuromirror.annex.allowed_addresses import ALLOWED_ADDRESSES, is_private_host_allowed
from neuromirror.annex.logs import parse_remote_log, remote_log
from neuromirror.annex.url_remotes import special_remote, web_remote
from neuromirror.annex.vault_remotes import (
    VaultAddress,
    is_private_address,
    private_vault_config,
    vault_address,
)
from neuromirror.model import NeuromirrorError

RunGit = Callable[..., str]
"""Runs git with arguments in a repository and returns its output; raises NeuromirrorError."""

_OWN_TYPE: Final = "neuromirror"
_LONGEST: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIMESTAMP: Final = re.compile(rb" timestamp=(\d{1,12})s\Z")
_SHOWN: Final = 80


class SkippedRemote(Struct, frozen=True):
    """A special remote with ``autoenable`` that was not enabled.

    Attributes
    ----------
    uuid
        The UUID of the remote.
    name
        The name of the remote.
    kind
        The type of the remote.
    """

    uuid: str
    name: str
    kind: str

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"


def initialize(git: RunGit, *, is_new: bool) -> list[SkippedRemote]:
    """Initialize git-annex in a clone, and enable only the special remotes that a mirror writes.

    Parameters
    ----------
    git
        Runs git in the clone.
    is_new
        Whether git-annex has no files in the repository: its journal could name further remotes.

    Returns
    -------
    list of SkippedRemote
        The remotes that were not enabled.

    Raises
    ------
    NeuromirrorError
        If git-annex cannot be initialized.
    """
    skipped: list[SkippedRemote] = []
    lines = _remote_lines(git, skipped)
    # git-annex looks up names before UUIDs, and merges the remote.log of several branches
    names_by_uuid = {
        uuid: {_name_of(one) for one in log_lines} for uuid, log_lines in lines.items()
    }
    settings = _settings(git)
    uses = Counter(
        [
            *{name[7:].rpartition(".")[0] for name in settings if name.startswith("remote.")},
            *(name for log_lines in names_by_uuid.values() for name in log_lines),
        ]
    )
    are_unique = all(len(names) == 1 == uses[min(names)] for names in names_by_uuid.values())
    if (
        is_new
        and not skipped
        and are_unique
        and all(map(_is_own_remote, chain.from_iterable(lines.values())))
    ):
        # one process of git-annex, instead of one for each remote
        git("annex", "init", "-q")
        settings = _settings(git)
        return [
            _skipped_remote(uuid, parse_remote_log(b"\n".join(log_lines))[uuid])
            for uuid, log_lines in lines.items()
            if f"remote.{min(names_by_uuid[uuid])}.annex-uuid" not in settings
        ]
    git("annex", "init", "-q", "--no-autoenable")
    allowed = settings.get(ALLOWED_ADDRESSES, "").split()
    for uuid, log_lines in lines.items():
        config = parse_remote_log(b"\n".join(log_lines)).get(uuid, {})
        (name, *others) = names_by_uuid[uuid]
        vault = _vault_of(config, log_lines, allowed)
        is_own = vault is not None or all(map(_is_own_remote, log_lines))
        if not others and uses[name] == 1 and is_own:
            try:
                _enable(git, name)
                if vault is not None:
                    _restrict(git, name)
            except NeuromirrorError:
                skipped.append(_skipped_remote(uuid, config))
        elif not _is_private_vault(config) and any(b"autoenable=" in one for one in log_lines):
            skipped.append(_skipped_remote(uuid, config))
    return skipped


def _settings(git: RunGit) -> dict[str, str]:
    """Return the git configuration of a clone."""
    entries = git("config", "--list", "-z").split("\0")
    return {name: value for name, _, value in (one.partition("\n") for one in entries)}


def _enable(git: RunGit, name: str) -> None:
    """Enable a remote as ``autoenable`` does.

    Recent versions of git-annex do not use a remote enabled by ``enableremote`` until the user
    has confirmed its configuration. The configuration was checked here, so mark it as automatic.
    """
    git("annex", "enableremote", "-q", name)
    setting = f"remote.{name}.annex-verified"
    if git("config", "--default", "", "--get", setting).strip() == "manual":
        git("config", setting, "automatic")


def _restrict(git: RunGit, name: str) -> None:
    """Configure a vault so that git and git-annex only get content from it."""
    for setting, value in (
        ("skipFetchAll", "true"),
        ("annex-sync", "false"),
        ("annex-readonly", "true"),
    ):
        git("config", f"remote.{name}.{setting}", value)


def _vault_of(
    config: dict[str, str], log_lines: list[bytes], allowed: list[str]
) -> VaultAddress | None:
    """Return the vault that the lines of a remote describe; None if it must not be enabled.

    git requests the URLs of remotes without a check of their addresses, so hosts of private
    networks must be in git-annex's setting.
    """
    vault = vault_address(config)
    if vault is None or not vault.is_url:
        return None
    host = urlsplit(vault.base).netloc
    if is_private_address(vault.base) and not is_private_host_allowed(host, allowed):
        return None
    return vault if all(map(_is_vault_line, log_lines)) else None


def _is_private_vault(config: dict[str, str]) -> bool:
    return config == private_vault_config(config.get("name", ""), config.get("type", ""))


def _is_vault_line(line: bytes) -> bool:
    """Return whether a line of ``remote.log`` is exactly one that neuromirror writes for a vault.

    The vault may have moved, or been private: earlier lines have other URLs or none.
    """
    found = _TIMESTAMP.search(line)
    try:
        ((uuid, config),) = parse_remote_log(line).items()
        is_vault = vault_address(config) is not None or _is_private_vault(config)
    except ValueError:
        return False
    return (
        found is not None
        and is_vault
        and _UUID.fullmatch(uuid) is not None
        and _NAME.fullmatch(config["name"]) is not None
        and remote_log(uuid, config, int(found[1])) == line + b"\n"
    )


def _is_own_remote(line: bytes) -> bool:
    """Return whether a line of ``remote.log`` is exactly one that neuromirror writes.

    Only such a remote may be enabled in a clone of an untrusted repository.
    """
    try:
        ((uuid, config),) = parse_remote_log(line).items()
        found = _TIMESTAMP.search(line)
        name = config.get("name", "")
        if found is None or not _NAME.fullmatch(name) or not _UUID.fullmatch(uuid):
            return False
        stamp = int(found[1])
        if config.get("type") == "external":
            own = special_remote(name, _OWN_TYPE, uuid, stamp)
        else:
            include, exclude = config.get("urlinclude", ""), config.get("urlexclude")
            cost = int(config.get("cost", ""))
            own = web_remote(name, cost, stamp, uuid=uuid, urlinclude=include, urlexclude=exclude)
    except ValueError:
        return False
    return line + b"\n" == own


def _remote_lines(git: RunGit, skipped: list[SkippedRemote]) -> dict[str, list[bytes]]:
    """Return the lines of ``remote.log`` in all branches that git-annex merges, by UUID."""
    found: dict[str, list[bytes]] = {}
    commits = git("for-each-ref", "--format=%(objectname)", "refs/**/git-annex").split()
    trees = [git("ls-tree", "-l", one, "remote.log").split() for one in dict.fromkeys(commits)]
    blobs = {one[2]: one[3] for one in trees if len(one) >= 4 and one[1] == "blob"}
    for blob, size in blobs.items():
        if int(size) > _LONGEST:
            skipped.append(SkippedRemote("", "all", f"remote.log has {size} bytes"))
            return {}
        content = git("cat-file", "blob", blob).encode("utf-8", "surrogateescape")
        for line in filter(bytes.strip, content.split(b"\n")):
            uuid = line.partition(b" ")[0].decode("utf-8", "surrogateescape")
            found.setdefault(uuid, []).append(line)
    return found


def _name_of(line: bytes) -> str:
    for config in parse_remote_log(line).values():
        return config.get("name") or config.get("sameas-name") or ""
    return ""


def _skipped_remote(uuid: str, config: dict[str, str]) -> SkippedRemote:
    kind = config.get("type") or ("sameas" if "sameas" in config else "no type")
    if kind == "external":
        kind = f"external, {config.get('externaltype', '')}"
    name = config.get("name") or config.get("sameas-name") or uuid
    return SkippedRemote(uuid, _printable(name), _printable(kind))


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text)[:_SHOWN]


def skipped_remotes_message(remotes: Iterable[SkippedRemote]) -> str:
    """Return a message with the names of the remotes that were not enabled; empty if all were.

    Parameters
    ----------
    remotes
        The remotes, from :func:`initialize`.

    Returns
    -------
    str
        The message.
    """
    names = ", ".join(map(str, remotes))
    return names and f"remotes not enabled: {names}"
