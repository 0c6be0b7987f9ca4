"""Locations of keys in a clone, and the record of what was fetched.

The locations of a key's content, in the order in which to try them.

URLs are in the ``.log.web`` logs of the git-annex branch; ``remote.log`` defines which web remote
has a URL, and its cost (git-annex: special remotes, web; internals, remote.log).

Record in git-annex which content is here: on its branch, or in its journal.

git-annex would write one journal file per key and stage them one by one. This recorder commits all
changes at once with ``git fast-import``, under the lock of the journal, as if the commit had been
fetched: git-annex updates its own index when it next reads the branch. If its settings require more
(a private repository, no commits, hooks), the journal is written instead (git-annex: internals;
Annex.Journal, Annex.Branch).

Keys that are stored but not recorded yet are listed in a file per process, so that the next run can
record those of a killed one.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from neuromirror import annex
from neuromirror.git import BatchObjectReader, GitError
from neuromirror.sources.volumes.urls import VOLUME_REMOTE
from neuromirror.transfer.annex_branch import (
    EQUIVALENT_KEYS,
    LOCATIONS,
    URLS,
    AnnexBranchReader,
    AnnexSettings,
    KeyLogs,
    enabled_vaults,
    file_names,
    journal_file,
    present_values,
    read_journal,
)
from neuromirror.transfer.annex_clone import BRANCH, FALLBACK_IDENTITY, AnnexClone
from neuromirror.transfer.annex_objects import AnnexObjectStore
from neuromirror.transfer.content_bodies import is_block_url
from neuromirror.transfer.url_sessions import SCHEME

_WEB_COST: Final = 200.0
_LOCAL_COST: Final = 100.0


class KeyLocations(Struct, frozen=True):
    """The locations of one key.

    Attributes
    ----------
    urls
        Supported URLs, the cheapest first, or those of a block of a volume.
    local_urls
        Those of the URLs that are files of this machine: copies in vaults.
    has_cheaper_remote
        Whether git-annex would first try a remote that only it supports (``annex-cost``).
    has_other_source
        Whether there is such a remote at any cost, or a URL with another scheme.
    unconfigured_repositories
        Repositories that have the content and are not remotes of this clone.
    equivalent_keys
        Keys with checksums that git-annex recorded for a VURL key.
    """

    urls: Sequence[str] = ()
    local_urls: frozenset[str] = frozenset()
    has_cheaper_remote: bool = False
    has_other_source: bool = False
    unconfigured_repositories: Sequence[str] = ()
    equivalent_keys: Sequence[str] = ()

    @property
    def remote_urls(self) -> list[str]:
        """The URLs that are requested over the network."""
        return [url for url in self.urls if url not in self.local_urls]


class _WebRemote(Struct, frozen=True):
    """A web special remote: its cost, and the URLs it accepts."""

    cost: float
    include: re.Pattern[str] | None
    exclude: re.Pattern[str] | None

    def accepts(self, url: str) -> bool:
        if self.include is not None and not self.include.match(url):
            return False
        return self.exclude is None or not self.exclude.match(url)


class CloneRemotes:
    """Determines where the content of keys is, from a clone's remotes and its git-annex branch.

    Parameters
    ----------
    settings
        git configuration of the clone.
    branch
        Its git-annex branch.
    vaults
        Vaults that may have a copy of any key, in addition to those in the branch.
    copies_only
        Whether to return locations in vaults only.
    """

    def __init__(
        self,
        settings: AnnexSettings,
        branch: AnnexBranchReader,
        vaults: Sequence[annex.VaultAddress] = (),
        *,
        copies_only: bool = False,
    ) -> None:
        self._copies_only = copies_only
        self._settings = settings
        self._branch = branch
        self._schemes = tuple(f"{scheme}:" for scheme in settings.schemes)
        self._remote_configs = annex.parse_remote_log(branch.file(b"remote.log"))
        webs = (uuid for uuid, one in self._remote_configs.items() if one.get("type") == "web")
        self._web_uuids = frozenset((annex.WEB_UUID, *webs))
        self._vaults = self._vault_costs()
        self._more_vaults = tuple(vaults)
        self._costs = self._remote_costs()
        self._webs, self._default_web_cost = self._web_remotes()
        self._uuid = settings.get("annex.uuid")

    def locations(self, key: str, logs: KeyLogs) -> KeyLocations:
        """Return the locations of a key, from its logs."""
        present = present_values(logs.content(LOCATIONS) + logs.private)
        known = present_values(logs.content(URLS))
        urls = self._ordered(known)
        others = [uuid for uuid in present if uuid in self._costs]
        if not urls and others == [VOLUME_REMOTE.uuid]:
            # this package does what the special remote does
            plain = map(annex.strip_claim_prefix, known)
            own = [url for url in plain if is_block_url(url) or url.startswith(f"{SCHEME}://")]
            if len(own) == len(known):
                urls, known, others = [(_WEB_COST, url) for url in own], [], []
        if self._copies_only:
            urls, known, others = [], [], []
        copies = [self._vaults[uuid] for uuid in present if uuid in self._vaults]
        copies += [(more_vault.cost, more_vault) for more_vault in self._more_vaults]
        found = [(cost, vault.copy_url(key)) for cost, vault in copies]
        urls = sorted([*urls, *found], key=lambda one: one[0])
        least = urls[0][0] if urls else _WEB_COST
        unconfigured = [
            uuid
            for uuid in present
            if uuid not in (*self._costs, *self._vaults, *self._web_uuids, self._uuid)
        ]
        return KeyLocations(
            urls=[url for _, url in urls],
            local_urls=frozenset(
                url for (_, url), (_, vault) in zip(found, copies, strict=True) if not vault.is_url
            ),
            has_cheaper_remote=any(self._costs[uuid] < least for uuid in others),
            has_other_source=bool(others) or not all(map(self._is_supported, known)),
            unconfigured_repositories=[self._names.get(uuid, uuid) for uuid in unconfigured],
            equivalent_keys=present_values(logs.content(EQUIVALENT_KEYS)),
        )

    def _ordered(self, urls: Sequence[str]) -> list[tuple[float, str]]:
        """Return the supported URLs with their costs; equal costs keep git-annex's order."""
        found = []
        for url in urls:
            if self._is_supported(url):
                costs = [web.cost for web in self._webs if web.accepts(url)]
                cost = min(costs) if costs else self._default_web_cost
                if cost is not None:
                    found.append((cost, url))
        return sorted(found, key=lambda one: one[0])

    def _is_supported(self, url: str) -> bool:
        return url.lower().startswith(self._schemes)

    def _vault_costs(self) -> dict[str, tuple[float, annex.VaultAddress]]:
        """Return the vaults whose copies are read here, with their costs, by UUID."""
        found = {}
        for uuid, vault in enabled_vaults(self._remote_configs, self._settings).items():
            name = self._name_of(uuid)
            given = "" if name is None else self._settings.get(f"remote.{name}.annex-cost")
            found[uuid] = _parse_number(given, vault.cost), vault
        return found

    def _remote_costs(self) -> dict[str, float]:
        """Return the lowest cost of each remote that only git-annex supports, by UUID."""
        costs: dict[str, float] = {}
        for name in self._settings.remotes():
            uuid = self._settings.get(f"remote.{name}.annex-uuid")
            if (
                not uuid
                or uuid in self._web_uuids
                or uuid in self._vaults
                or self._settings.is_true(f"remote.{name}.annex-ignore")
            ):
                continue
            url = self._settings.get(f"remote.{name}.url")
            near = self._settings.get(f"remote.{name}.annex-directory") or (
                url and ((not urlsplit(url).scheme and ":" not in url) or url.startswith("file:"))
            )
            given = self._settings.get(f"remote.{name}.annex-cost")
            costs[uuid] = _parse_number(given, _LOCAL_COST if near else _WEB_COST)
        return costs

    def _web_remotes(self) -> tuple[list[_WebRemote], float | None]:
        """Return the web remotes with URL patterns, and the cost of the default web remote."""
        webs = []
        for uuid, config in self._remote_configs.items():
            if config.get("type") != "web":
                continue
            name = self._name_of(uuid)
            if name is not None and self._settings.is_true(f"remote.{name}.annex-ignore"):
                continue
            cost = _parse_number(config.get("cost", ""), _WEB_COST)
            if name is not None:
                cost = _parse_number(self._settings.get(f"remote.{name}.annex-cost"), cost)
            include, exclude = config.get("urlinclude"), config.get("urlexclude")
            if include or exclude:
                webs.append(_WebRemote(cost, _glob(include), _glob(exclude)))
        if self._settings.is_true("remote.web.annex-ignore"):
            return webs, None
        return webs, _parse_number(self._settings.get("remote.web.annex-cost"), _WEB_COST)

    def _name_of(self, config_uuid: str) -> str | None:
        for name in self._settings.remotes():
            for field in ("annex-config-uuid", "annex-uuid"):
                if self._settings.get(f"remote.{name}.{field}") == config_uuid:
                    return name
        return None

    @cached_property
    def _names(self) -> dict[str, str]:
        """Descriptions of repositories, by UUID."""
        names = {}
        for line in self._branch.file(b"uuid.log").decode(errors="replace").splitlines():
            uuid, _, rest = line.partition(" ")
            names[uuid] = rest.partition(" timestamp=")[0] or uuid
        return names


def _glob(pattern: str | None) -> re.Pattern[str] | None:
    return annex.url_glob(pattern) if pattern else None


def _parse_number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default


_MAX_UNRECORDED: Final = 50_000
"""Maximum number of keys per commit."""

_FLUSH_INTERVAL: Final = 300.0
"""Seconds after which stored keys are recorded."""

_MESSAGE: Final = "update"
_MAX_ERROR_BYTES: Final = 1 << 12
"""Bytes that are read from the end of git's error output."""


class PendingKeys:
    """A list on disk of the keys whose content is stored but not yet recorded in git-annex.

    Thread-safe; a context manager.

    After a crash the next run reads it and records them.
    """

    def __init__(self, clone: AnnexClone) -> None:
        self._folder = clone.git_dir / "neuromirror"
        self._path = self._folder / f"get-{os.getpid()}.keys"
        self._file = -1
        self._lock = threading.Lock()
        self._pending: set[str] = set()

    def __enter__(self) -> PendingKeys:
        self._file = self._open(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        if not os.fstat(self._file).st_size:
            self._path.unlink(missing_ok=True)
        os.close(self._file)
        with suppress(OSError):
            self._folder.rmdir()

    def _open(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        while True:
            self._folder.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):
                file = os.open(path, flags, 0o666)
                fcntl.flock(file, fcntl.LOCK_EX)
                # another run may have deleted it as stale before it was locked
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return file
                os.close(file)

    def add(self, key: str) -> None:
        """Add a key."""
        with self._lock:
            self._pending.add(key)
            os.write(self._file, key.encode() + b"\n")

    def remove(self, keys: Iterable[str]) -> None:
        """Remove recorded keys; keys that were added meanwhile stay."""
        with self._lock:
            self._pending.difference_update(keys)
            if not self._pending:
                os.ftruncate(self._file, 0)
                return
            draft = self._path.with_name(f"new-{self._path.name}")
            file = self._open(draft)
            os.write(file, "".join(f"{key}\n" for key in self._pending).encode())
            os.rename(draft, self._path)
            os.close(self._file)
            self._file = file

    def recover(self, is_here: Callable[[str], bool]) -> list[str]:
        """Take over the keys of killed runs whose content is here."""
        found: list[str] = []
        for path in sorted(self._folder.glob("get-*.keys")):
            with path.open("r+") as file:
                if path != self._path:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                keys = file.read().split("\n")[:-1]
                here = [key for key in dict.fromkeys(keys) if is_here(key)]
                for key in here:
                    self.add(key)
                found += here
                if path != self._path:
                    path.unlink(missing_ok=True)
        return found


class LocationRecorder:
    """Records in git-annex that this clone has the content of keys: on its branch, or in a journal.

    Parameters
    ----------
    clone
        The clone.
    commit
        Commit of the git-annex branch that the logs were read from.
    intentions
        The list of keys that are not recorded yet.
    """

    def __init__(self, clone: AnnexClone, commit: str, intentions: PendingKeys) -> None:
        self._clone = clone
        self._commit = commit
        self._pending_keys = intentions
        self._unrecorded: dict[str, tuple[KeyLogs, str | None]] = {}
        self._since = time.monotonic()
        settings = clone.settings
        self._private = settings.is_true("annex.private")
        self._uses_journal = not settings.is_true("annex.alwayscommit", default=True)
        self._commits_directly = settings.can_commit_directly

    def add(self, key: str, logs: KeyLogs, equivalent_key: str | None = None) -> None:
        """Queue a key whose content is here.

        Parameters
        ----------
        key
            Annex key.
        logs
            The key's logs at the commit.
        equivalent_key
            Key to record for a VURL key.
        """
        self._unrecorded[key] = (logs, equivalent_key)

    def recover(self, store: AnnexObjectStore, branch: AnnexBranchReader) -> None:
        """Queue the keys that killed runs did not record."""
        there = self._pending_keys.recover(store.repair)
        for key, logs in branch.logs(there).items():
            self.add(key, logs)

    @property
    def is_flush_due(self) -> bool:
        """Whether queued keys should be recorded now."""
        if len(self._unrecorded) >= _MAX_UNRECORDED:
            return True
        return bool(self._unrecorded) and time.monotonic() - self._since > _FLUSH_INTERVAL

    def flush(self) -> None:
        """Record all queued keys; raises GitError."""
        self._since = time.monotonic()
        if not self._unrecorded:
            return
        with self._journal_lock():
            changed = self._changes()
            if self._uses_journal or not self._commits_directly:
                self._write_journal(changed, self._clone.annex_dir / "journal")
            elif changed:
                self._commit = self._write_branch(changed)
        self._pending_keys.remove(self._unrecorded)
        self._unrecorded.clear()
        if changed and not self._uses_journal and not self._commits_directly:
            self._clone.git_annex("wanted", "here")

    @contextmanager
    def _journal_lock(self) -> Iterator[None]:
        path = self._clone.annex_dir / "journal.lck"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _changes(self) -> dict[bytes, bytes]:
        """Return the new contents of files of the branch that are not in the journal.

        Files that are in the journal, and private ones, are written there immediately.
        """
        self._refresh_logs()
        journal = self._clone.annex_dir / "journal"
        journaled = file_names(journal)
        changed: dict[bytes, bytes] = {}
        in_journal: dict[bytes, bytes] = {}
        private: dict[bytes, bytes] = {}
        now = int(time.time())
        for key, (logs, equivalent_key) in self._unrecorded.items():
            news = [(LOCATIONS, self._clone.uuid)]
            if equivalent_key is not None:
                news.append((EQUIVALENT_KEYS, equivalent_key))
            for ending, value in news:
                path = b"%s/%s%s" % (annex.hash_lower(key), annex.key_file_name(key), ending)
                name = journal_file(path)
                old = logs.content(ending)
                if name in journaled:
                    old = read_journal(journal, name) or old
                if self._private and ending == LOCATIONS:
                    old += read_journal(self._clone.annex_dir / "journal-private", name) or b""
                    target = private
                elif name in journaled:
                    target = in_journal
                else:
                    target = changed
                new = annex.merge_url_log(old, [value], now)
                if new != old:
                    target[path] = new
        self._write_journal(in_journal, journal)
        self._write_journal(private, self._clone.annex_dir / "journal-private")
        return changed

    def _refresh_logs(self) -> None:
        """Read the logs again if the branch has changed."""
        commit = self._clone.annex_branch_commit()
        if commit is None:
            raise GitError(f"{self._clone.top} has no git-annex branch any more; see 'git reflog'")
        if commit == self._commit:
            return
        with BatchObjectReader(self._clone.git_dir) as objects:
            found = AnnexBranchReader(objects, commit, self._clone.annex_dir).logs(
                list(self._unrecorded)
            )
        self._unrecorded = {
            key: (found[key], equivalent) for key, (_, equivalent) in self._unrecorded.items()
        }
        self._commit = commit

    def _write_journal(self, files: dict[bytes, bytes], journal: os.PathLike[str]) -> None:
        if not files:
            return
        os.makedirs(journal, exist_ok=True)
        temporary = os.fsencode(self._clone.annex_dir / "othertmp")
        folder = os.fsencode(journal)
        for path, content in files.items():
            name = journal_file(path)
            draft = b"%s/neuromirror-%d-%s" % (temporary, os.getpid(), name[:100])
            with open(draft, "wb") as file:
                file.write(content)
            os.rename(draft, b"%s/%s" % (folder, name))

    def _write_branch(self, files: dict[bytes, bytes]) -> str:
        """Commit files to the git-annex branch; return the commit."""
        message = self._clone.settings.get("annex.commitmessage", _MESSAGE).encode()
        # git-annex also commits without a configured identity
        committer = "{} <{}>".format(*FALLBACK_IDENTITY).encode()
        with suppress(GitError):
            ident = self._clone.git("var", "GIT_COMMITTER_IDENT")
            committer = ident.rstrip(b"\n").rsplit(b" ", 2)[0]
        head = b"feature done\ncommit %s\ncommitter %s now\ndata %d\n%s\nfrom %s\n" % (
            *(BRANCH.encode(), committer, len(message), message, self._commit.encode()),
        )
        # a file: a pipe that is not read until the end could fill up and block git
        with tempfile.TemporaryFile(prefix="neuromirror-") as errors:
            process = subprocess.Popen(
                ["git", "fast-import", "--quiet", "--done", "--date-format=now"],
                env=self._clone.environment,
                stdin=subprocess.PIPE,
                stderr=errors,
                bufsize=1 << 20,
            )
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.write(head)
                process.stdin.writelines(
                    b"M 100644 inline %s\ndata %d\n%s\n" % (_quoted(path), len(content), content)
                    for path, content in files.items()
                )
                process.stdin.write(b"done\n")
            process.communicate()
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - _MAX_ERROR_BYTES))
            output = errors.read()
        commit = self._clone.annex_branch_commit()
        if process.returncode or commit is None or commit == self._commit:
            why = output.decode(errors="replace").strip().splitlines()
            raise GitError(
                f"{self._clone.top}: cannot update the git-annex branch: "
                f"{why[-1] if why else 'git fast-import failed'}; the downloaded content is kept, "
                "and the next run records it"
            )
        return commit


def _quoted(path: bytes) -> bytes:
    """Return a path in the syntax of ``git fast-import``."""
    if path.startswith(b'"') or b"\n" in path:
        return b'"%s"' % path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return path
