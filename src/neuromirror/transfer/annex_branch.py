"""The git-annex branch of a clone, and the settings of git-annex in repositories that are filled.

The git-annex branch of a clone: locations of keys, and published copies.

Reader for the logs on the git-annex branch, for thousands of keys at a time.

``git cat-file`` resolves a path by reading every tree on the way, and trees of the branch have
thousands of entries. This reader reads each tree once, and keeps those of the first level.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct, field

from neuromirror import git
from neuromirror.annex import (
    VaultAddress,
    hash_lower,
    key_file_name,
    log_path,
    parse_log,
    parse_remote_log,
    vault_addresses,
)
from neuromirror.mint import REMOTE_LOG
from neuromirror.net import is_local_name
from neuromirror.store import CUSTODY_BRANCH

_TO_EVERY_HOST: Final = {
    "http.extraheader": "",
    "http.cookiefile": "",
    "http.savecookies": "false",
    "http.delegation": "none",
}
_HELPERS: Final = "credential.helper"
_HELPER: Final = re.compile(r"credential\.(?:.*\.)?helper", re.DOTALL)
_PROGRAM: Final = re.compile(r"!|/(?!(?:.*/)?git-credential-)", re.DOTALL)
"""A helper that may give the same password to every host."""
_IS_SETTING: Final = re.compile(r"GIT_CONFIG_(?:COUNT|KEY_|VALUE_)")


def foreign_settings(*, with_filters: bool = False) -> dict[str, str]:
    """Return the user's settings that git must not use in a repository of others, as variables.

    A foreign ``.gitattributes`` could activate any filter that the user has configured (git-lfs
    would contact its server). Its remotes are foreign too: of what the user's settings send, they
    get only what is set for their URL (``http.<url>.*``, ``credential.<url>.*``), or what a helper
    of git has for their host.

    Parameters
    ----------
    with_filters
        Whether filters run.
    """
    listed = git.call_git(git.git_environment(None), "config", "--list", "-z", folder=Path(os.sep))
    entries = [os.fsdecode(entry).partition("\n")[::2] for entry in listed.stdout.split(b"\0")[:-1]]
    names = {name for name, _ in entries}
    settings = [(name, _TO_EVERY_HOST[name]) for name in names & _TO_EVERY_HOST.keys()]
    if not with_filters:
        filters = {name.rpartition(".")[0] for name in names if name.startswith("filter.")}
        off = {"clean": "", "smudge": "", "process": "", "required": "false"}.items()
        settings += [
            (f"{name}.{k}", value) for name in filters - {"filter.annex"} for k, value in off
        ]
    helpers = [entry for entry in entries if _HELPER.fullmatch(entry[0])]
    kept = [entry for entry in helpers if entry[0] != _HELPERS or not _PROGRAM.match(entry[1])]
    if kept != helpers:
        settings += [(_HELPERS, ""), *kept]
    environment = git.with_settings(git.git_environment(None), settings)
    return {name: environment[name] for name in environment if _IS_SETTING.match(name)}


_LIST_CONFIG: Final = ("config", "--list", "-z", "--includes")
_RESERVE: Final = 100_000_000
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)")
_UNITS: Final = {"": 1, "b": 1, "byte": 1} | {
    name: base**power
    for power, prefix in enumerate(
        ("kilo", "mega", "giga", "tera", "peta", "exa", "zetta", "yotta"), 1
    )
    for base, names in (
        (1000, (prefix[0], f"{prefix[0]}b", f"{prefix}byte")),
        (1024, (f"{prefix[0]}ib", f"{prefix[:2]}bibyte")),
    )
    for name in names
}
_TRUE: Final = frozenset({"true", "yes", "on", "1", ""})
_VERSIONS: Final = frozenset({"8", "9", "10"})
_UNSHARED: Final = frozenset({"", "umask", "false", "0", "no", "off"})

_UNSUPPORTED_FLAGS: Final = (
    "annex.crippledfilesystem",
    "annex.pidlock",
    "annex.tune.objecthash1",
    "annex.tune.objecthashlower",
    "annex.tune.branchhash1",
)
_UNSUPPORTED_COMMANDS: Final = (
    "annex.freezecontent-command",
    "annex.thawcontent-command",
    "annex.web-options",
    "annex.http-headers-command",
    "annex.bwlimit",
    "annex.bwlimit-download",
)
_COMMIT_COMMANDS: Final = ("annex.commitmessage-command", "annex.post-update-command")


class AnnexSettings:
    """The git configuration of a clone, as far as git-annex obeys it when it gets files.

    As in git, names are lower case except for a subsection.

    Parameters
    ----------
    values
        The values of each setting, the effective one last.
    """

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        self._values = values

    @classmethod
    def load(cls, git_dir: Path, overrides: Mapping[str, str] | None = None) -> AnnexSettings:
        """Read the configuration of a checked repository with ``git config``; raises GitError.

        Parameters
        ----------
        git_dir
            The repository.
        overrides
            Settings that replace those of the repository.
        """
        environment = git.with_settings(git.git_environment(git_dir), (overrides or {}).items())
        listed = git.call_git(environment, *_LIST_CONFIG)
        if listed.returncode:
            message = listed.stderr.decode(errors="replace").strip()
            raise git.GitError(f"git cannot read the configuration of {git_dir}: {message}")
        values: dict[str, list[str]] = {}
        for entry in listed.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]:
            name, equals, value = entry.partition("\n")
            values.setdefault(name, []).append(value if equals else "true")
        return cls(values)

    @classmethod
    def of_user(cls) -> AnnexSettings:
        """Read the configuration of the user and the system; raises GitError."""
        return cls.load(Path(os.devnull))

    def get(self, name: str, default: str = "") -> str:
        """Return the effective value of a setting: the last one."""
        value = self._values.get(name)
        return value[-1] if value else default

    def is_true(self, name: str, *, default: bool = False) -> bool:
        """Return a setting as a boolean, parsed as git does."""
        value = self._values.get(name)
        if not value:
            return default
        return value[-1].strip().lower() in _TRUE

    def subsections(self, section: str) -> dict[tuple[str, str], str]:
        """Return the settings ``section.SUBSECTION.name``, by subsection and name."""
        found = {}
        for name in self._values:
            head, _, setting = name.rpartition(".")
            if head.startswith(f"{section}.") and (value := self.get(name).strip()):
                found[head.removeprefix(f"{section}."), setting] = value
        return found

    def remotes(self) -> list[str]:
        """Return the names of all configured remotes, including special remotes."""
        names = [name[7:].rpartition(".")[0] for name in self._values if name[:7] == "remote."]
        return [name for name in dict.fromkeys(names) if name]

    @property
    def disk_reserve(self) -> int:
        """Bytes to leave free on the disk (``annex.diskreserve``)."""
        # as git-annex parses sizes: ``1 gigabyte``, ``0.5tb``, ``100 MiB``, ``1000000``
        found = _SIZE.match(self.get("annex.diskreserve").lower())
        name = "" if found is None else found[2]
        unit = _UNITS.get(name, _UNITS.get(name.removesuffix("s")))
        return _RESERVE if found is None or unit is None else round(float(found[1]) * unit)

    @property
    def schemes(self) -> frozenset[str]:
        """URL schemes that are allowed by the configuration and supported by this package."""
        allowed = self.get("annex.security.allowed-url-schemes", "http https").split()
        return frozenset({"http", "https"}.intersection(allowed))

    @property
    def allowed_addresses(self) -> list[str]:
        """Values of ``annex.security.allowed-ip-addresses``, or of its old name."""
        old = self.get("annex.security.allowed-http-addresses")
        return self.get("annex.security.allowed-ip-addresses", old).split()

    @property
    def verifies_content(self) -> bool:
        """Whether git-annex verifies all content that it gets."""
        names = ["annex.verify", *(f"remote.{name}.annex-verify" for name in self.remotes())]
        return all(self.is_true(name, default=True) for name in names)

    @property
    def headers(self) -> dict[str, str]:
        """Headers for each request (``annex.http-headers``); raises GitError if malformed."""
        found = {}
        for line in self._values.get("annex.http-headers", ()):
            name, colon, value = line.partition(":")
            if not colon or not name.strip() or not line.isprintable() or not line.isascii():
                raise git.GitError(
                    "annex.http-headers: a value is not a header (NAME: VALUE); correct it"
                )
            found[name.strip()] = value.strip()
        return found

    @property
    def can_commit_directly(self) -> bool:
        """Whether git alone may commit to the git-annex branch: no command or signature is due."""
        return not (
            any(self.get(name) for name in _COMMIT_COMMANDS) or self.is_true("annex.allowsign")
        )

    def delegation_reason(self) -> str | None:
        """Return why git-annex itself must get all files, None if this package can."""
        if self.get("annex.version", "10") not in _VERSIONS:
            return f"unsupported repository version {self.get('annex.version')} (annex.version)"
        for name in _UNSUPPORTED_FLAGS:
            if self.is_true(name):
                return f"{name} is set"
        for name in _UNSUPPORTED_COMMANDS:
            if self.get(name):
                return f"{name} is set"
        if self.get("extensions.objectformat", "sha1").lower() != "sha1":
            return "unsupported object format, not SHA-1 (extensions.objectFormat)"
        if not self.is_true("core.symlinks", default=True):
            return "the file system does not support symlinks (core.symlinks)"
        if self.get("core.sharedrepository").lower() not in _UNSHARED:
            return "core.sharedRepository is set"
        return None


def enabled_vaults(
    configs: Mapping[str, Mapping[str, str]], settings: AnnexSettings
) -> dict[str, VaultAddress]:
    """Return the vaults from which contents may be read, by UUID.

    A vault at a path of this machine is included only if it is a remote of the clone: the branch
    may come from another machine. A vault at a URL need not be one.

    Parameters
    ----------
    configs
        The configurations of remotes in ``remote.log``, by UUID.
    settings
        The git configuration of the clone.

    Returns
    -------
    dict[str, VaultAddress]
        UUID → vault. Remotes with ``annex-ignore`` are omitted.
    """
    found = {}
    for uuid, vault in vault_addresses(configs).items():
        # git-annex sets the UUID of a new remote when it uses it first
        names = [
            name
            for name in settings.remotes()
            if settings.get(f"remote.{name}.annex-uuid", uuid) == uuid
            and (name == configs[uuid]["name"] or settings.get(f"remote.{name}.url") == vault.base)
        ]
        if any(settings.is_true(f"remote.{name}.annex-ignore") for name in names):
            continue
        urls = {settings.get(f"remote.{name}.url") for name in names}
        if vault.is_url or vault.base in urls:
            found[uuid] = vault
    return found


LOCATIONS: Final = b".log"
URLS: Final = b".log.web"
EQUIVALENT_KEYS: Final = b".log.ek"
_ENDINGS: Final = (LOCATIONS, URLS, EQUIVALENT_KEYS)

_PRESENT: Final = "1"
_FILE: Final = b"100644 "
_FOLDER: Final = b"40000 "


class KeyLogs(Struct):
    """The logs on the git-annex branch about one key.

    Attributes
    ----------
    files
        Contents of the existing logs, by file name suffix (``LOCATIONS``, ``URLS``,
        ``EQUIVALENT_KEYS``).
    private
        Lines of the location log from this clone's private journal.
    """

    files: dict[bytes, bytes] = field(default_factory=dict)
    private: bytes = b""

    def content(self, ending: bytes) -> bytes:
        """Return the content of a log, empty if the log does not exist."""
        return self.files.get(ending, b"")


class AnnexBranchReader:
    """Reader for the git-annex branch at one commit, with the changes in git-annex's journals.

    A file in the journal replaces that of the branch; lines of the private journal are added to it.

    Parameters
    ----------
    objects
        Reader for the repository.
    commit
        Commit of the branch, in hexadecimal.
    annex
        git-annex's directory, ``.git/annex``; None to ignore its journals.
    """

    def __init__(
        self, objects: git.BatchObjectReader, commit: str, annex: Path | None = None
    ) -> None:
        self._objects = objects
        annex = annex or Path(os.devnull)  # nothing is below it
        self._journal = annex / "journal"
        self._private = annex / "journal-private"
        self._root = self._read_object(f"{commit}^{{tree}}".encode())
        self._folders: dict[bytes, bytes] = {}

    def file(self, name: bytes) -> bytes:
        """Return a file at the top of the branch (``remote.log``), empty if it does not exist."""
        found = _entry(self._root, _FILE, name)
        public = read_journal(self._journal, journal_file(name))
        if public is None:
            public = self._read_object(found) if found else b""
        return public + (read_journal(self._private, journal_file(name)) or b"")

    def logs(self, keys: Sequence[str]) -> dict[str, KeyLogs]:
        """Return the logs of keys, by key."""
        folders = {key: hash_lower(key) for key in keys}
        missing = {folder[:3] for folder in folders.values()} - self._folders.keys()
        ids = {name: _entry(self._root, _FOLDER, name) for name in missing}
        self._folders.update(self._read_found(ids))
        inner = {
            folder: _entry(self._folders.get(folder[:3], b""), _FOLDER, folder[4:])
            for folder in folders.values()
        }
        trees = dict(self._read_found(inner))
        object_ids: dict[bytes, bytes] = {}
        for key, folder in folders.items():
            tree = trees.get(folder, b"")
            name = key_file_name(key)
            for ending in _ENDINGS:
                if found := _entry(tree, _FILE, name + ending):
                    object_ids[b"%s/%s%s" % (folder, name, ending)] = found
        # many logs are identical, and identical objects are read once
        distinct = list(dict.fromkeys(object_ids.values()))
        read = dict(zip(distinct, self._objects.read(distinct), strict=True))
        contents = {path: existing_object(one, read[one]) for path, one in object_ids.items()}
        journal, private = file_names(self._journal), file_names(self._private)
        known = {}
        for key, folder in folders.items():
            logs = KeyLogs()
            for ending in _ENDINGS:
                path = b"%s/%s%s" % (folder, key_file_name(key), ending)
                content = contents.get(path, b"")
                name = journal_file(path) if journal or private else b""
                if name in journal:
                    content = read_journal(self._journal, name) or content
                if content:
                    logs.files[ending] = content
                if name in private and ending == LOCATIONS:
                    logs.private = read_journal(self._private, name) or b""
            known[key] = logs
        return known

    def _read_object(self, name: bytes) -> bytes:
        return existing_object(name, next(self._objects.read([name])))

    def _read_found(self, object_ids: dict[bytes, bytes | None]) -> Iterator[tuple[bytes, bytes]]:
        """Yield the names that have an object id, with the object's content."""
        there = [(name, found) for name, found in object_ids.items() if found]
        contents = self._objects.read([found for _, found in there])
        for (name, found), content in zip(there, contents, strict=True):
            yield name, existing_object(found, content)


def existing_object(name: bytes, content: bytes | None) -> bytes:
    """Return the content of an object; a missing log is no empty log."""
    if content is None:
        raise git.GitError(
            f"git object {name.decode()} cannot be read; check the clone with 'git fsck'"
        )
    return content


def present_values(log: bytes) -> list[str]:
    """Return the values (URLs, UUIDs) that a git-annex log marks as present, in the log's order.

    If a log has several lines with one value, the newest one counts.
    """
    newest: dict[str, tuple[object, str]] = {}
    for line in parse_log(log):
        known = newest.get(line.value)
        if known is None or (line.timestamp, line.status) >= known:
            newest[line.value] = (line.timestamp, line.status)
    return [value for value, (_, status) in newest.items() if status == _PRESENT]


def journal_file(path: bytes) -> bytes:
    """Return the name in git-annex's journal of a file of the branch."""
    return path.replace(b"_", b"__").replace(b"/", b"_")


def read_journal(folder: Path, name: bytes) -> bytes | None:
    """Return the content of a file in a journal of git-annex, up to its last complete line.

    ``folder`` is the journal, ``name`` the name of the file in it (:func:`journal_file`). The
    result is None if the file does not exist.
    """
    try:
        with open(os.path.join(os.fsencode(folder), name), "rb") as file:
            content = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content[: content.rfind(b"\n") + 1]


def file_names(folder: Path) -> frozenset[bytes]:
    """Return the names of the files in a folder; none if it does not exist."""
    try:
        return frozenset(os.listdir(os.fsencode(folder)))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def _entry(tree: bytes, mode: bytes, name: bytes) -> bytes | None:
    """Return the id of a tree's entry in hexadecimal.

    A search is faster than parsing a large tree.
    """
    mark = mode + name + b"\0"
    at = tree.find(mark)
    if at < 0:
        return None
    start = at + len(mark)
    return tree[start : start + 20].hex().encode()


_BRANCH: Final = CUSTODY_BRANCH.removeprefix("refs/heads")
_REFRESH: Final = 30.0
"""Seconds for which the refs of a repository are not read again."""


class PublishedCopies:
    """Looks up which vaults have a content. Thread-safe.

    Parameters
    ----------
    tree
        A commit of the repository, whose reader is used.
    annex_commit
        The commit of the git-annex branch in hex, into which git-annex may have merged the copies;
        None without one.
    settings
        The configuration of a clone: of the vaults at paths of this machine, only those are used
        that are remotes of it. None for the repository of a store, which its operator has written.
    """

    def __init__(
        self, tree: git.CommitTree, annex_commit: str | None, settings: AnnexSettings | None
    ) -> None:
        self._tree = tree
        self._annex_commit = annex_commit
        self._settings = settings
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._commits: tuple[str, ...] = ()
        self._vaults: dict[str, VaultAddress] = {}

    def vaults(self, key: str) -> list[VaultAddress]:
        """Return the vaults that have a copy, the preferred ones first.

        Parameters
        ----------
        key
            The annex key.

        Returns
        -------
        list of VaultAddress
            The vaults; a vault may have lost its copy.
        """
        commits, vaults = self._refresh()
        if not vaults or not key:
            return []
        path = log_path(key).decode()
        logs = b"".join(self._tree.find(path, commit) or b"" for commit in commits)
        found = [vaults[uuid] for uuid in present_values(logs) if uuid in vaults]
        return sorted(found, key=lambda one: one.cost)

    def hosts(self) -> set[str]:
        """Return the hosts of the vaults at URLs, with their ports.

        Returns
        -------
        set of str
            The hosts.
        """
        vaults = self._refresh()[1].values()
        return {urlsplit(vault.base).netloc for vault in vaults if vault.is_url}

    def _refresh(self) -> tuple[tuple[str, ...], dict[str, VaultAddress]]:
        """Return the commits with location logs, and the usable vaults by UUID."""
        with self._lock:
            now = time.monotonic()
            if now - self._read_at > _REFRESH:
                refs = sorted(git.read_refs(self._tree.repository).items())
                found = [commit for name, commit in refs if name.endswith(_BRANCH)]
                if self._annex_commit is not None and self._settings is not None:
                    found.insert(0, self._annex_commit)
                commits = tuple(dict.fromkeys(found))
                if commits != self._commits:
                    logs = (self._tree.find(REMOTE_LOG, commit) or b"" for commit in commits)
                    configs = parse_remote_log(b"".join(logs))
                    self._vaults = (
                        vault_addresses(configs)
                        if self._settings is None
                        else enabled_vaults(configs, self._settings)
                    )
                    self._commits = commits
                self._read_at = now
            return self._commits, self._vaults


def local_hosts(hosts: Iterable[str]) -> frozenset[str]:
    """Return the hosts that are this machine or addresses in private networks.

    Parameters
    ----------
    hosts
        Hosts with their ports, as in URLs; empty ones are ignored.

    Returns
    -------
    frozenset of str
        The hosts that are ``localhost`` or a private address; names are not resolved.
    """
    names = {host: urlsplit(f"//{host}").hostname for host in hosts}
    return frozenset(host for host, name in names.items() if name and is_local_name(name))
