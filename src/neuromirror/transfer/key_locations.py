"""Where a key's bytes are said to be, in the order in which they are to be asked for.

The web's URLs stand in the branch's ``.log.web`` files. Which of git-annex's web remotes has a URL,
and at what cost, ``remote.log`` says (git-annex: special remotes, web; internals, remote.log).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from urllib.parse import urlsplit

from neuromirror.annex import WEB_UUID, parse_log, parse_remote_log, url_glob
from neuromirror.transfer.annex_branch import (
    EQUIVALENT_KEYS,
    LOCATIONS,
    URLS,
    AnnexBranchReader,
    KeyLogs,
)
from neuromirror.transfer.annex_settings import AnnexSettings

_WEB_COST: Final = 200.0
_LOCAL_COST: Final = 100.0
_PRESENT: Final = "1"


@dataclass(frozen=True, slots=True)
class KeyLocations:
    """Where one key can be had: ``urls`` of the web, the cheapest first.

    ``cheaper`` says that a remote which only git-annex speaks with has it for less than the web
    does, ``others`` that there is such a remote, or a URL that only git-annex may know how to ask
    for. ``elsewhere`` names repositories that have it and are not set up here. ``equivalent`` are
    the keys recorded for a VURL key.
    """

    urls: Sequence[str] = ()
    has_cheaper_remote: bool = False
    has_other_source: bool = False
    unconfigured_repositories: Sequence[str] = ()
    equivalent_keys: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _WebRemote:
    """One of the web remotes: the URLs that it takes, and what it costs."""

    cost: float
    include: re.Pattern[str] | None
    exclude: re.Pattern[str] | None

    def accepts(self, url: str) -> bool:
        if self.include is not None and not self.include.match(url):
            return False
        return self.exclude is None or not self.exclude.match(url)


class CloneRemotes:
    """The remotes of a clone, as its configuration and its git-annex branch tell them."""

    def __init__(self, settings: AnnexSettings, branch: AnnexBranchReader) -> None:
        self._settings = settings
        self._branch = branch
        self._schemes = tuple(f"{scheme}:" for scheme in settings.schemes)
        self._remote_configs = parse_remote_log(branch.file(b"remote.log"))
        webs = (uuid for uuid, one in self._remote_configs.items() if one.get("type") == "web")
        self._web_uuids = frozenset((WEB_UUID, *webs))
        self._costs = self._remote_costs()
        self._webs, self._default_web_cost = self._web_remotes()
        self._uuid = settings.get("annex.uuid")

    def locations(self, logs: KeyLogs) -> KeyLocations:
        """Where a key can be had, by what is known of it."""
        present = _present_values(logs.content(LOCATIONS) + logs.private)
        known = _present_values(logs.content(URLS))
        urls = self._ordered(known)
        least = urls[0][0] if urls else _WEB_COST
        others = [uuid for uuid in present if uuid in self._costs]
        unconfigured = [
            uuid for uuid in present if uuid not in (*others, *self._web_uuids, self._uuid)
        ]
        return KeyLocations(
            urls=[url for _, url in urls],
            has_cheaper_remote=any(self._costs[uuid] < least for uuid in others),
            has_other_source=bool(others) or not all(map(self._is_supported, known)),
            unconfigured_repositories=[self._names.get(uuid, uuid) for uuid in unconfigured],
            equivalent_keys=_present_values(logs.content(EQUIVALENT_KEYS)),
        )

    def _ordered(self, urls: Sequence[str]) -> list[tuple[float, str]]:
        """The URLs that are spoken here, each with its cost; those of one cost as git-annex tries
        them."""
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

    def _remote_costs(self) -> dict[str, float]:
        """The remotes that only git-annex speaks with, by uuid, with what they cost it at least."""
        costs: dict[str, float] = {}
        for name in self._settings.remotes():
            uuid = self._settings.get(f"remote.{name}.annex-uuid")
            if (
                not uuid
                or uuid in self._web_uuids
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
        """The web remotes that choose their URLs, and the cost of the one for the rest."""
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
        """What repositories are called, by uuid."""
        names = {}
        for line in self._branch.file(b"uuid.log").decode(errors="replace").splitlines():
            uuid, _, rest = line.partition(" ")
            names[uuid] = rest.partition(" timestamp=")[0] or uuid
        return names


def _present_values(log: bytes) -> list[str]:
    """The values that a log says are present, in its order.

    Each distinct one counts by its newest line.
    """
    newest: dict[str, tuple[object, str]] = {}
    for line in parse_log(log):
        known = newest.get(line.value)
        if known is None or (line.timestamp, line.status) >= known:
            newest[line.value] = (line.timestamp, line.status)
    return [value for value, (_, status) in newest.items() if status == _PRESENT]


def _glob(pattern: str | None) -> re.Pattern[str] | None:
    return url_glob(pattern) if pattern else None


def _parse_number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default
