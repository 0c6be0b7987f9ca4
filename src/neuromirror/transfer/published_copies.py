"""The copies in vaults that a repository knows: of a store, or of a clone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from neuromirror.annex import VaultAddress, log_path, parse_remote_log, vault_addresses
from neuromirror.git import CommitTree, read_refs
from neuromirror.mint import REMOTE_LOG
from neuromirror.net import is_local_name
from neuromirror.store import CUSTODY_BRANCH
from neuromirror.transfer.annex_branch import present_values
from neuromirror.transfer.annex_settings import AnnexSettings
from neuromirror.transfer.enabled_vaults import enabled_vaults

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
        self, tree: CommitTree, annex_commit: str | None, settings: AnnexSettings | None
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
        return {urlsplit(one.base).netloc for one in vaults if one.is_url}

    def _refresh(self) -> tuple[tuple[str, ...], dict[str, VaultAddress]]:
        """Return the commits with location logs, and the usable vaults by UUID."""
        with self._lock:
            now = time.monotonic()
            if now - self._read_at > _REFRESH:
                commits = self._find_commits()
                if commits != self._commits:
                    self._vaults = self._read_vaults(commits)
                    self._commits = commits
                self._read_at = now
            return self._commits, self._vaults

    def _find_commits(self) -> tuple[str, ...]:
        refs = read_refs(self._tree.repository)
        found = [commit for name, commit in sorted(refs.items()) if name.endswith(_BRANCH)]
        if self._annex_commit is not None and self._settings is not None:
            found.insert(0, self._annex_commit)
        return tuple(dict.fromkeys(found))

    def _read_vaults(self, commits: tuple[str, ...]) -> dict[str, VaultAddress]:
        logs = b"".join(self._tree.find(REMOTE_LOG, commit) or b"" for commit in commits)
        configs = parse_remote_log(logs)
        if self._settings is not None:
            return enabled_vaults(configs, self._settings)
        return vault_addresses(configs)


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
