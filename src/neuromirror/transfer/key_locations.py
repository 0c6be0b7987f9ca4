"""The locations of a key's content, in the order in which to try them.

URLs are in the ``.log.web`` logs of the git-annex branch; ``remote.log`` defines which web remote
has a URL, and its cost (git-annex: special remotes, web; internals, remote.log).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from neuromirror.annex import (
    WEB_UUID,
    VaultAddress,
    parse_remote_log,
    strip_claim_prefix,
    url_glob,
)
from neuromirror.sources.volumes.remote_identity import VOLUME_REMOTE
from neuromirror.transfer.annex_branch import (
    EQUIVALENT_KEYS,
    LOCATIONS,
    URLS,
    AnnexBranchReader,
    KeyLogs,
    present_values,
)
from neuromirror.transfer.annex_settings import AnnexSettings
from neuromirror.transfer.block_bodies import is_block_url
from neuromirror.transfer.enabled_vaults import enabled_vaults
from neuromirror.transfer.s3_access import SCHEME

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
        vaults: Sequence[VaultAddress] = (),
        *,
        copies_only: bool = False,
    ) -> None:
        self._copies_only = copies_only
        self._settings = settings
        self._branch = branch
        self._schemes = tuple(f"{scheme}:" for scheme in settings.schemes)
        self._remote_configs = parse_remote_log(branch.file(b"remote.log"))
        webs = (uuid for uuid, one in self._remote_configs.items() if one.get("type") == "web")
        self._web_uuids = frozenset((WEB_UUID, *webs))
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
            own = [url for url in map(strip_claim_prefix, known) if _is_own(url)]
            if len(own) == len(known):
                urls, known, others = [(_WEB_COST, url) for url in own], [], []
        if self._copies_only:
            urls, known, others = [], [], []
        copies = [self._vaults[uuid] for uuid in present if uuid in self._vaults]
        copies += [(one.cost, one) for one in self._more_vaults]
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

    def _vault_costs(self) -> dict[str, tuple[float, VaultAddress]]:
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


def _is_own(url: str) -> bool:
    """Return whether a URL is that of a block of a volume, or of a private object."""
    return is_block_url(url) or url.startswith(f"{SCHEME}://")


def _glob(pattern: str | None) -> re.Pattern[str] | None:
    return url_glob(pattern) if pattern else None


def _parse_number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default
