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
from neuromirror.lab.get.logs import EQUIVALENT, LOCATIONS, URLS, AnnexBranch, KeyLogs
from neuromirror.lab.get.settings import Settings

_WEB_COST: Final = 200.0
_LOCAL_COST: Final = 100.0
_PRESENT: Final = "1"


@dataclass(frozen=True, slots=True)
class Places:
    """Where one key can be had: ``urls`` of the web, the cheapest first.

    ``cheaper`` says that a remote which only git-annex speaks with has it for less than the web
    does, ``others`` that there is such a remote, or a URL that only git-annex may know how to ask
    for. ``elsewhere`` names repositories that have it and are not set up here. ``equivalent`` are
    the keys recorded for a VURL key.
    """

    urls: Sequence[str] = ()
    cheaper: bool = False
    others: bool = False
    elsewhere: Sequence[str] = ()
    equivalent: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Web:
    """One of the web remotes: the URLs that it takes, and what it costs."""

    cost: float
    include: re.Pattern[str] | None
    exclude: re.Pattern[str] | None

    def takes(self, url: str) -> bool:
        if self.include is not None and not self.include.match(url):
            return False
        return self.exclude is None or not self.exclude.match(url)


class Remotes:
    """The remotes of a clone, as its configuration and its git-annex branch tell them."""

    def __init__(self, settings: Settings, branch: AnnexBranch) -> None:
        self._settings = settings
        self._branch = branch
        self._schemes = tuple(f"{scheme}:" for scheme in settings.schemes)
        self._configured = parse_remote_log(branch.file(b"remote.log"))
        webs = (uuid for uuid, one in self._configured.items() if one.get("type") == "web")
        self._web_uuids = frozenset((WEB_UUID, *webs))
        self._costs = self._set_up()
        self._webs, self._plain = self._web_remotes()
        self._uuid = settings.get("annex.uuid")

    def places(self, logs: KeyLogs) -> Places:
        """Where a key can be had, by what is known of it."""
        present = _present(logs.of(LOCATIONS) + logs.private)
        known = _present(logs.of(URLS))
        urls = self._ordered(known)
        least = urls[0][0] if urls else _WEB_COST
        others = [uuid for uuid in present if uuid in self._costs]
        strangers = [
            uuid for uuid in present if uuid not in (*others, *self._web_uuids, self._uuid)
        ]
        return Places(
            urls=[url for _, url in urls],
            cheaper=any(self._costs[uuid] < least for uuid in others),
            others=bool(others) or not all(map(self._is_spoken, known)),
            elsewhere=[self._names.get(uuid, uuid) for uuid in strangers],
            equivalent=_present(logs.of(EQUIVALENT)),
        )

    def _ordered(self, urls: Sequence[str]) -> list[tuple[float, str]]:
        """The URLs that are spoken here, each with its cost; those of one cost as git-annex tries
        them."""
        found = []
        for url in urls:
            if self._is_spoken(url):
                costs = [web.cost for web in self._webs if web.takes(url)]
                cost = min(costs) if costs else self._plain
                if cost is not None:
                    found.append((cost, url))
        return sorted(found, key=lambda one: one[0])

    def _is_spoken(self, url: str) -> bool:
        return url.lower().startswith(self._schemes)

    def _set_up(self) -> dict[str, float]:
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
            costs[uuid] = _number(given, _LOCAL_COST if near else _WEB_COST)
        return costs

    def _web_remotes(self) -> tuple[list[_Web], float | None]:
        """The web remotes that choose their URLs, and the cost of the one for the rest."""
        webs = []
        for uuid, config in self._configured.items():
            if config.get("type") != "web":
                continue
            name = self._name_of(uuid)
            if name is not None and self._settings.is_true(f"remote.{name}.annex-ignore"):
                continue
            cost = _number(config.get("cost", ""), _WEB_COST)
            if name is not None:
                cost = _number(self._settings.get(f"remote.{name}.annex-cost"), cost)
            include, exclude = config.get("urlinclude"), config.get("urlexclude")
            if include or exclude:
                webs.append(_Web(cost, _glob(include), _glob(exclude)))
        if self._settings.is_true("remote.web.annex-ignore"):
            return webs, None
        return webs, _number(self._settings.get("remote.web.annex-cost"), _WEB_COST)

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


def _present(log: bytes) -> list[str]:
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


def _number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default
