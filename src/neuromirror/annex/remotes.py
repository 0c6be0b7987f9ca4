"""Special remotes of a dataset, and its initialization.

The private addresses that git-annex may access: ``annex.security.allowed-ip-addresses``.

The setting is ``all``, or a list of addresses separated by spaces, each with or without a port
(``127.0.0.1 [::1]:8080``); see git-annex's man page.

Remotes other than the default web remote, and their URLs (git-annex: internals).

In ``.log.web``, a URL that an external special remote claims is prefixed with a colon. Additional
web remotes select their URLs by globs, and the default web remote skips these. In both cases the
location log contains the UUID of the remote that downloads the URL.

Vaults as git-annex remotes: their lines in ``remote.log``, and the URLs of the copies in them.

A vault in a directory is a bare repository (``type=git``), whose copies have the paths of bare
repositories. A vault in S3 that is publicly readable is an S3 special remote without credentials
(``signature=anonymous``, ``publicurl``); the object of a key is named by the key.

Initialize git-annex in a clone without enabling remotes that an untrusted origin configures.

``git annex init`` enables each special remote with ``autoenable=true`` in ``remote.log``: it runs
the program named by ``externaltype``, opens ``directory=/etc`` or connects to a ``location``, as
chosen by the author of the dataset. This module enables only the remotes that neuromirror writes:
web remotes, which git-annex restricts by ``annex.security``, neuromirror's own special remote, and
vaults with copies at a URL of a web server. Their lines must be byte-identical to those that
neuromirror writes. git and git-annex only get content from vaults: they neither fetch refs from
them nor write to them.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from ipaddress import ip_address
from itertools import chain
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from msgspec import Struct, field

from neuromirror.annex.logs import WEB_UUID, parse_remote_log, remote_log
from neuromirror.annex.paths import hash_lower, key_file_name
from neuromirror.model import NeuromirrorError

ALLOWED_ADDRESSES = "annex.security.allowed-ip-addresses"


def is_private_host_allowed(host: str, allowed: Sequence[str]) -> bool:
    """Return whether a host may be accessed even if it is this machine or on a private network.

    Names other than ``localhost`` are not resolved, since they might resolve to another address
    the next time.

    Parameters
    ----------
    host
        The host as in a URL, with its port if there is one.
    allowed
        The words of the setting.

    Returns
    -------
    bool
        Whether the setting allows the host.
    """
    if "all" in allowed:
        return True
    name = host_without_port(host)
    addresses = {"127.0.0.1", "::1"} if name == "localhost" else {name}
    return all(_is_listed(address, host, allowed) for address in addresses)


def host_without_port(host: str) -> str:
    """Return a name or address without port and brackets.

    Parameters
    ----------
    host
        The host as in a URL.

    Returns
    -------
    str
        The name, or the address.
    """
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def allow_command(hosts: Iterable[str]) -> str:
    """Return the command that allows git-annex and neuromirror to access further hosts.

    Parameters
    ----------
    hosts
        Hosts as in URLs. The address of a name other than ``localhost`` is left to the reader.

    Returns
    -------
    str
        One line for a shell.
    """
    named: dict[str, None] = {}
    for name in map(host_without_port, hosts):
        try:
            found = ("127.0.0.1", "::1") if name == "localhost" else (str(ip_address(name)),)
        except ValueError:
            found = ("ADDRESS",)
        named.update(dict.fromkeys(found))
    setting = f"git config --global {ALLOWED_ADDRESSES}"
    return f'{setting} "$({setting}) {" ".join(named)}"'


def _is_listed(address: str, host: str, allowed: Sequence[str]) -> bool:
    port = host.rpartition(":")[2] if not host.endswith("]") and ":" in host else ""
    for one in allowed:
        listed, _, listed_port = one.partition("]:") if one.startswith("[") else (one, "", "")
        with suppress(ValueError):
            same = ip_address(listed.strip("[]")) == ip_address(address)
            if same and listed_port in ("", port):
                return True
    return False


CLAIMED_LOCATION_KINDS = frozenset({"boss", "ndstore", "s3-private", "api-private"})
"""The kinds of locations (``Location.kind``) that a special remote downloads."""

LONGEST_GLOB = 4096

CLAIM_PREFIX = ":"
"""The prefix of a claimed URL in a URL log."""


def special_remote(name: str, externaltype: str, uuid: str, timestamp: int) -> bytes:
    """Return the line of ``remote.log`` for an external special remote that every clone enables.

    ``git annex initremote NAME type=external externaltype=TYPE encryption=none autoenable=true``
    writes the same line.

    Parameters
    ----------
    name
        The name of the remote.
    externaltype
        The type: the program is ``git-annex-remote-<type>``.
    uuid
        The UUID of the remote.
    timestamp
        Seconds since 1970.

    Returns
    -------
    bytes
        The line with its newline.
    """
    config = {
        "autoenable": "true",
        "encryption": "none",
        "externaltype": externaltype,
        "name": name,
        "type": "external",
    }
    return remote_log(uuid, config, timestamp)


def web_remote(
    name: str,
    cost: int,
    timestamp: int | None = None,
    *,
    uuid: str,
    urlinclude: str,
    urlexclude: str | None = None,
) -> bytes:
    """Return the line of ``remote.log`` for an additional web remote.

    ``git annex initremote NAME type=web urlinclude=GLOB urlexclude=GLOB cost=N autoenable=true``
    writes the same line. The default web remote (cost 200) skips URLs that match ``urlinclude``.

    Parameters
    ----------
    name
        The name of the remote.
    cost
        The cost; git-annex uses cheaper remotes first.
    timestamp
        Seconds since 1970; None to omit the timestamp and the newline.
    uuid
        The UUID of the remote.
    urlinclude
        A glob of the URLs that the remote serves.
    urlexclude
        A glob of exceptions to ``urlinclude``.

    Returns
    -------
    bytes
        The line.
    """
    config = {
        "autoenable": "true",
        "cost": str(cost),
        "name": name,
        "type": "web",
        "urlinclude": urlinclude,
    }
    if urlexclude is not None:
        config["urlexclude"] = urlexclude
    return remote_log(uuid, config, timestamp)


def untrusted_line(uuid: str, timestamp: int) -> bytes:
    """Return the line of ``trust.log`` that ``git annex untrust`` writes.

    Parameters
    ----------
    uuid
        The UUID of the remote.
    timestamp
        Seconds since 1970.

    Returns
    -------
    bytes
        The line with its newline.
    """
    return f"{uuid} 0 timestamp={timestamp}s\n".encode()


def url_glob(pattern: str) -> re.Pattern[str]:
    """Compile a glob of ``urlinclude`` or ``urlexclude`` with git-annex's semantics.

    Matching does not backtrack, because ``fnmatch`` uses atomic groups. A glob of more than
    :data:`LONGEST_GLOB` characters matches nothing, since ``remote.log`` may be untrusted.

    Parameters
    ----------
    pattern
        The glob.

    Returns
    -------
    re.Pattern[str]
        A pattern to be used with ``fullmatch``.
    """
    if len(pattern) > LONGEST_GLOB:
        return re.compile(r"(?!)")
    return re.compile(fnmatch.translate(pattern), re.IGNORECASE)


class UrlRemote(Struct, frozen=True):
    """A remote other than the default web remote.

    Attributes
    ----------
    uuid
        The UUID.
    claims
        Whether the remote is a special remote that downloads the claimed URLs.
    urlinclude, urlexclude
        The globs of a web remote's URLs.
    declared
        Whether ``lines`` are written even if the remote has no content.
    lines
        Lines for files at the top of the git-annex branch, by file name.
    """

    uuid: str
    claims: bool = False
    urlinclude: str | None = None
    urlexclude: str | None = None
    declared: bool = False
    lines: dict[str, str] = field(default_factory=dict)


class UrlRemotes:
    """Determines which remotes hold a file's content, from the URLs in its URL log.

    ``remotes`` are the remotes besides git-annex's default web remote.
    """

    def __init__(self, remotes: tuple[UrlRemote, ...]) -> None:
        self._claiming_uuid = next((remote.uuid for remote in remotes if remote.claims), None)
        self._web_remotes = [
            (
                remote.uuid,
                None if remote.urlinclude is None else url_glob(remote.urlinclude),
                None if remote.urlexclude is None else url_glob(remote.urlexclude),
            )
            for remote in remotes
            if not remote.claims
        ]

    def uuids_for(self, urls: list[bytes]) -> tuple[str, ...]:
        """Return the sorted UUIDs of all remotes that download one of the URLs.

        Parameters
        ----------
        urls
            The URLs of one key.

        Returns
        -------
        tuple of str
            The UUIDs, each once.

        Raises
        ------
        ValueError
            If a URL is claimed, but no remote claims URLs.
        """
        return tuple(sorted({self._uuid_for(url) for url in urls}))

    def _uuid_for(self, url: bytes) -> str:
        if url[:1] == b":":
            if self._claiming_uuid is None:
                raise ValueError("claimed URL in a snapshot without a special remote")
            return self._claiming_uuid
        text = url.decode()
        for uuid, include, exclude in self._web_remotes:
            if (include is None or include.match(text)) and not (exclude and exclude.match(text)):
                return uuid
        return WEB_UUID


def uuid_line(name: str, uuid: str, timestamp: int) -> bytes:
    """Return the line of ``uuid.log`` that names a remote.

    Parameters
    ----------
    name
        The name of the remote.
    uuid
        The UUID of the remote.
    timestamp
        Seconds since 1970.

    Returns
    -------
    bytes
        The line with its newline.
    """
    return f"{uuid} {name} timestamp={timestamp}s\n".encode()


def strip_claim_prefix(value: str) -> str:
    """Return the URL in a value of a URL log.

    Parameters
    ----------
    value
        The value, with a leading colon if a special remote claims the URL.

    Returns
    -------
    str
        The URL.
    """
    return value.removeprefix(CLAIM_PREFIX)


LONGEST_VAULT_URL: Final = 2048

_PRINTABLE: Final = re.compile(r"[!-~]+")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9!_.()/-]*")
_COST: Final = {False: "300", True: "150"}
"""git-annex's web remote has the cost 200, and the remote of URLs without a version 250."""


class VaultKind(StrEnum):
    """How the copies in a vault are named."""

    DIRECTORY = "directory"
    S3 = "s3"


class BucketAccess(Struct, frozen=True):
    """How to request the objects of a bucket, as its user configured.

    Attributes
    ----------
    endpoint, region, profile
        The URL of the server, the region, and the profile in the AWS configuration; empty for what
        git and the AWS configuration state.
    is_signed
        Whether requests are signed.
    """

    endpoint: str = ""
    region: str = ""
    profile: str = ""
    is_signed: bool = True


class VaultAddress(Struct, frozen=True):
    """Where readers find the copies in a vault.

    Attributes
    ----------
    kind
        How the copies are named.
    base
        For a directory, the URL or the absolute path of the bare repository. For S3, the URL to
        which the key is appended; it ends with the prefix of the object names.
    prefer
        Whether to use the copies before upstream.
    access
        For a bucket at ``s3://``, how to request its objects. Set it from the user's own settings
        only: it selects credentials, and where the requests that they sign are sent.
    """

    kind: VaultKind
    base: str
    prefer: bool = False
    access: BucketAccess | None = None

    @property
    def cost(self) -> float:
        """git-annex's cost of the vault: remotes of lower costs are tried first."""
        return float(_COST[self.prefer])

    @property
    def is_url(self) -> bool:
        """Whether the base is a URL, not a path on this machine."""
        return not self.base.startswith("/")

    @property
    def is_web(self) -> bool:
        """Whether copies can be requested without credentials, from a web server."""
        return self.base.startswith(("https://", "http://"))

    def copy_url(self, key: str) -> str:
        """Return the URL of the copy of a key; for a vault at a path, a URL with ``file``."""
        if self.kind is VaultKind.S3:
            return self.base + quote(key, safe="")
        path = self.copy_path(key)
        if path is not None:
            return "file://" + quote(os.fsencode(path))
        name = quote(key_file_name(key), safe="")
        folder = f"/annex/objects/{os.fsdecode(hash_lower(key))}"
        return f"{self.base.rstrip('/')}{folder}/{name}/{name}"

    def copy_path(self, key: str) -> Path | None:
        """Return the path of the copy of a key; None for a vault at a URL."""
        if self.is_url:
            return None
        name = os.fsdecode(key_file_name(key))
        return Path(self.base, "annex", "objects", os.fsdecode(hash_lower(key)), name, name)


def directory_vault_config(name: str, location: str, *, prefer: bool = False) -> dict[str, str]:
    """Return the configuration of a vault in a directory, for ``remote.log``.

    ``git annex initremote NAME type=git location=LOCATION cost=COST autoenable=true`` writes it.
    """
    return {
        "autoenable": "true",
        "cost": _COST[prefer],
        "location": location,
        "name": name,
        "type": "git",
    }


def s3_vault_config(
    name: str, public_url: str, bucket: str, prefix: str = "", *, prefer: bool = False
) -> dict[str, str]:
    """Return the configuration of a publicly readable vault in S3, for ``remote.log``.

    Raises
    ------
    ValueError
        The URL is not one of a web server.
    """
    parts = urlsplit(public_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{public_url!r} is not an http or https URL")
    return {
        "autoenable": "true",
        "bucket": bucket,
        "cost": _COST[prefer],
        "datacenter": "US",
        "encryption": "none",
        "fileprefix": prefix,
        "host": parts.hostname,
        "name": name,
        "port": str(parts.port or (443 if parts.scheme == "https" else 80)),
        "protocol": parts.scheme,
        "publicurl": public_url.rstrip("/") + "/",
        "requeststyle": "path",
        "signature": "anonymous",
        "type": "S3",
    }


def private_vault_config(name: str, remote_type: str) -> dict[str, str]:
    """Return the configuration of a vault that clones can no longer read, for ``remote.log``.

    It replaces one with a location. git-annex does not enable it automatically.
    """
    return {"autoenable": "false", "name": name, "type": remote_type}


def vault_address(config: Mapping[str, str]) -> VaultAddress | None:
    """Return where the copies of a vault are, from its configuration in ``remote.log``."""
    name, prefer = config.get("name", ""), config.get("cost") == _COST[True]
    if config.get("type") == "git":
        location = config.get("location", "")
        own = directory_vault_config(name, location, prefer=prefer)
        is_valid = is_vault_url(location) or _is_plain_path(location)
        found = VaultAddress(VaultKind.DIRECTORY, location, prefer)
        return found if is_valid and config == own else None
    public, prefix = config.get("publicurl", ""), config.get("fileprefix", "")
    bucket = config.get("bucket", "")
    if config.get("type") != "S3" or not is_vault_url(public):
        return None
    if not _BUCKET.fullmatch(bucket) or not _PREFIX.fullmatch(prefix):
        return None
    if config != s3_vault_config(name, public, bucket, prefix, prefer=prefer):
        return None
    return VaultAddress(VaultKind.S3, public + prefix, prefer)


def vault_addresses(configs: Mapping[str, Mapping[str, str]]) -> dict[str, VaultAddress]:
    """Return the vaults among the remotes in ``remote.log``."""
    found = {uuid: vault_address(config) for uuid, config in configs.items()}
    return {uuid: vault for uuid, vault in found.items() if vault is not None}


def find_local_copy(key: str, vaults: Iterable[VaultAddress]) -> Path | None:
    """Return the path of a copy on this machine."""
    paths = (vault.copy_path(key) for vault in vaults if key)
    return next((path for path in paths if path is not None and path.is_file()), None)


def urls_with_copies(
    key: str, urls: Sequence[str], vaults: Iterable[VaultAddress]
) -> tuple[str, ...]:
    """Return the URLs of a content at upstream and in vaults, in the order in which to try them."""
    found = sorted(vaults, key=lambda one: one.cost)
    first = [one.copy_url(key) for one in found if one.prefer]
    last = [one.copy_url(key) for one in found if not one.prefer]
    return tuple(dict.fromkeys((*first, *urls, *last)))


def is_vault_url(url: str) -> bool:
    """Return whether a text is the URL of a web server at which a vault can be.

    It has no user, query or fragment. The address of the host is not looked up.
    """
    if len(url) > LONGEST_VAULT_URL or not _PRINTABLE.fullmatch(url) or set(url) & set('?#"\\<>'):
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and "@" not in parts.netloc
        and port != 0
        and ".." not in parts.path.split("/")
    )


def is_private_address(url: str) -> bool:
    """Return whether the host of a URL is ``localhost`` or an address of a private network."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not ip_address(host).is_global
    except ValueError:
        # inet_aton(3) reads "127.1" and "0x7f.1" as addresses
        last = host.rstrip(".").rpartition(".")[2]
        return last.isdigit() or last.startswith("0x")


def _is_plain_path(path: str) -> bool:
    return path.startswith("/") and path.isprintable() and ".." not in path.split("/")


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
    skipped = _initialize(git, is_new=is_new)
    exclude_from_fetch(git)
    return skipped


def exclude_from_fetch(git: RunGit) -> None:
    """Exclude special remotes from ``git fetch --all``: git cannot fetch from them."""
    settings = _settings(git)
    for setting in settings:
        name, _, variable = setting.removeprefix("remote.").rpartition(".")
        if variable == "annex-uuid" and f"remote.{name}.url" not in settings:
            git("config", f"remote.{name}.skipFetchAll", "true")


def _initialize(git: RunGit, *, is_new: bool) -> list[SkippedRemote]:
    skipped: list[SkippedRemote] = []
    lines = _remote_lines(git, skipped)
    # git-annex looks up names before UUIDs, and merges the remote.log of several branches
    names_by_uuid = {
        uuid: {_name_of(line) for line in log_lines} for uuid, log_lines in lines.items()
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
        elif not _is_private_vault(config) and any(b"autoenable=" in line for line in log_lines):
            skipped.append(_skipped_remote(uuid, config))
    return skipped


def _settings(git: RunGit) -> dict[str, str]:
    """Return the git configuration of a clone."""
    entries = git("config", "--list", "-z").split("\0")
    return {name: value for name, _, value in (entry.partition("\n") for entry in entries)}


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
    blobs = {tree[2]: tree[3] for tree in trees if len(tree) >= 4 and tree[1] == "blob"}
    for blob, size in blobs.items():
        # git prints BAD for a missing object
        if size.isdigit() and int(size) > _LONGEST:
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
