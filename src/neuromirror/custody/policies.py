"""Run policies: copy what they keep into their vaults, and announce what cannot be kept in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Final, Self

from neuromirror.config.policy_files import Policies, Policy
from neuromirror.config.vault_files import VaultConfig
from neuromirror.custody.keep import KeepOptions, KeepOutcome, run_keep
from neuromirror.custody.keep_plan import check_privacy, may_create, publish_copies
from neuromirror.custody.policy_contents import (
    SelectedContents,
    locate_contents,
    select_contents,
)
from neuromirror.custody.policy_plan import (
    CopyPlan,
    CostEstimate,
    MissingCopies,
    PlannedCopy,
    RequiredContent,
    ShortageReason,
    VaultState,
    plan_copies,
)
from neuromirror.custody.policy_status import PoliciesStatus, PolicyStatus
from neuromirror.custody.vault_copies import CopyTask, copy_between
from neuromirror.index import Index
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import LedgerEvent, Wish
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.store import Store
from neuromirror.vault import Vault, VaultError, VaultUnavailableError, open_vault

WISH_KIND: Final = "policy"
"""The kind of the wishes of policies in the ledger."""

_LAST_DAYS: Final = 8
"""Days before a deletion upstream at which every missing copy is announced, whatever the reason.

One more than the seven that are promised, because the service may be stopped for a day.
"""


@dataclass(frozen=True, slots=True)
class Announcement:
    """Contents of a dataset that a policy cannot keep in time, announced for the first time.

    Attributes
    ----------
    policy, dataset
        The policy and the dataset.
    reason, detail
        Why.
    contents, bytes
        Number and size of the contents.
    horizon
        The earliest time at which upstream may delete one of them; None if no time is known.
    keys
        Their annex keys.
    """

    policy: str
    dataset: str
    reason: ShortageReason
    detail: str
    contents: int
    bytes: int
    horizon: datetime | None
    keys: tuple[str, ...]

    @property
    def message(self) -> str:
        """The announcement as text."""
        when = "at any time" if self.horizon is None else f"from {self.horizon:%Y-%m-%d} on"
        return (
            f"policy {self.policy} lacks copies of {self.contents} contents ({self.bytes} bytes), "
            f"which upstream may delete {when}: {self.detail}"
        )


@dataclass(slots=True)
class _Progress:
    """The result of a run for a policy."""

    copied: int = 0
    bytes: int = 0
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class PolicyRun:
    """Runs policies once. A context manager.

    Parameters
    ----------
    store
        The store.
    index
        Its index.
    ledger
        Its ledger.
    vaults
        The configured vaults.
    policies
        The policies.
    names
        Names of the policies to run; all for none.
    clock
        Returns POSIX seconds.
    dry_run
        Whether vaults that do not exist are not created; they count as empty.
    """

    def __init__(
        self,
        store: Store,
        index: Index,
        ledger: Ledger,
        vaults: Mapping[str, VaultConfig],
        policies: Policies,
        names: tuple[str, ...] = (),
        clock: Callable[[], float] = time.time,
        *,
        dry_run: bool = False,
    ) -> None:
        self._store = store
        self._index = index
        self._ledger = ledger
        self._configs = vaults
        self._policies = policies
        self._selected_policies = policies.find(names)
        self._clock = clock
        self._dry_run = dry_run
        self._is_unpublished = False
        self._vaults: dict[str, Vault] = {}
        self._selected: dict[str, SelectedContents] = {}
        self._progress: dict[str, _Progress] = {}
        self._closing = ExitStack()
        self.states: dict[str, VaultState] = {}
        """The state of each vault that a policy names."""
        self.plan = CopyPlan()
        """The plan of :meth:`prepare`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @property
    def now(self) -> datetime:
        """The time."""
        return datetime.fromtimestamp(self._clock(), UTC)

    @property
    def problems(self) -> dict[str, list[str]]:
        """What could not be read of the contents of a policy, by its name."""
        return {name: one.problems for name, one in self._selected.items()}

    @property
    def costs(self) -> dict[str, CostEstimate]:
        """Size and price that the planned copies add to each vault, by its name."""
        return self.plan.costs(self.states)

    def prepare(self) -> CopyPlan:
        """Select the contents of the policies, and plan the copies that they lack.

        Returns
        -------
        CopyPlan
            The plan.
        """
        for policy in self._selected_policies:
            for name in policy.vaults:
                if name not in self.states:
                    self.states[name] = self._open(name)
            self._selected[policy.name] = self.select(policy)
        keys = {one.key for some in self._selected.values() for one in some.required.contents}
        saved = PoliciesStatus.load(self._store)
        self._is_unpublished = saved.is_copying
        self.plan = plan_copies(
            [one.required for one in self._selected.values()],
            self._copies(list(keys)),
            self.states,
            now=self.now,
            announce=self._policies.announce,
            rates={name: one.rate for name, one in saved.policies.items() if one.rate},
        )
        return self.plan

    def select(self, policy: Policy) -> SelectedContents:
        """Return the contents that a policy keeps.

        Parameters
        ----------
        policy
            The policy.

        Returns
        -------
        SelectedContents
            The contents.
        """
        return select_contents(policy, self._policies, self._store, self._index)

    def copy(self, options: KeepOptions) -> Iterator[KeepOutcome]:
        """Make the planned copies, as far as time and hours allow.

        Parameters
        ----------
        options
            The options of copying; the rate of a policy takes precedence.

        Yields
        ------
        KeepOutcome
            One per content and vault that was tried, and one per vault that failed as a whole.
        """
        self._progress = {one.name: _Progress() for one in self._selected_policies}
        down: set[str] = set()
        if self.plan.copies:
            status = PoliciesStatus.load(self._store)
            status.is_copying = True
            status.save(self._store)
        for (policy_name, vault), group in groupby(
            self.plan.copies, key=lambda one: (one.policy.name, one.vault)
        ):
            if _is_over(options):
                return
            planned = list(group)
            policy, now = planned[0].policy, self.now
            keys = [one.content.key for one in planned if one.is_urgent or policy.is_open_at(now)]
            if vault in down or not keys:
                continue
            began = time.monotonic()
            try:
                yield from self._copy_group(policy, self._vaults[vault], keys, options)
            except (NeuromirrorError, OSError) as error:
                # the copies that were made before the error are not published yet
                self._is_unpublished = True
                if isinstance(error, VaultError):
                    down.add(vault)
                    self.states[vault] = replace(self.states[vault], problem=str(error))
                else:
                    self._progress[policy_name].problems.append(f"vault {vault}: {error}")
                yield KeepOutcome("keep", "error", ".", str(error), host=vault, vault=vault)
            self._progress[policy_name].seconds += time.monotonic() - began

    def finish(self) -> list[Announcement]:
        """Record wishes, announcements and the status of the policies.

        Returns
        -------
        list[Announcement]
            The shortages that were not announced before.
        """
        now = self.now
        contents = {
            name: {one.key: one for one in some.required.contents}
            for name, some in self._selected.items()
        }
        copies = self._copies(list({key for some in contents.values() for key in some}))
        self._record_wishes()
        is_published = not self._is_unpublished or self._publish_all()
        found: list[Announcement] = []
        status = PoliciesStatus.load(self._store)
        status.forget_others([one.name for one in self._policies.settings.keep])
        for policy in self._selected_policies:
            lacking = {
                key: one
                for key, one in contents[policy.name].items()
                if sum(name in policy.vaults for name in copies.get(key, ()))
                < policy.required_copies
            }
            due = self._due(policy, lacking, now)
            new = self._ledger.events.announce(policy.name, list(due), self._clock())
            found += _announcements(policy.name, [due[key] for key in new])
            status.policies[policy.name] = self._status(policy, contents, lacking, due)
        status.is_copying = not is_published
        status.at = now.isoformat(timespec="seconds")
        status.vaults = {name: one.problem for name, one in self.states.items() if one.problem}
        status.save(self._store)
        self._ledger.events.add(
            LedgerEvent(self._clock(), "shortage", one.message, dataset=one.dataset)
            for one in found
        )
        return found

    def _open(self, name: str) -> VaultState:
        config = self._configs[name]
        settings = config.settings
        problem = ""
        try:
            check_privacy(self._store, config)
            is_fixed = settings.read_only or self._dry_run
            create = not is_fixed and may_create(config, self._ledger)
            vault = open_vault(config, self._store, create=create)
            self._closing.callback(vault.close)
            vault.check_access(write=not settings.read_only)
            self._vaults[name] = vault
        except (VaultError, ConfigurationError, OSError) as error:
            is_new = self._dry_run and isinstance(error, VaultUnavailableError)
            problem = "" if is_new else str(error)
        return VaultState(
            problem,
            settings.read_only,
            settings.cost_per_gb_month or 0.0,
            settings.cost_per_1000_requests or 0.0,
        )

    def _copies(self, keys: Sequence[str]) -> dict[str, set[str]]:
        """Return the names of the vaults that have each content, by annex key."""
        names = {one.uuid: one.name for one in self._ledger.vaults()}
        for name, vault in self._vaults.items():
            # a vault that was created again has another UUID, and none of the old copies
            names = {uuid: known for uuid, known in names.items() if known != name}
            names[vault.uuid] = name
        return {
            key: {names[one.vault] for one in some if one.vault in names}
            for key, some in self._ledger.copies(keys).items()
        }

    def _copy_group(
        self, policy: Policy, target: Vault, keys: list[str], options: KeepOptions
    ) -> Iterator[KeepOutcome]:
        """Copy contents from other vaults, and those that no other vault has from upstream."""
        selected = self._selected[policy.name]
        locate_contents(selected, keys, self._store, self._index)
        hosts = options.allowed_hosts | selected.contents.allowed_hosts
        options = replace(options, allowed_hosts=hosts)
        if policy.bytes_per_second is not None:
            options = replace(options, bytes_per_second=policy.bytes_per_second)
        located, progress, elsewhere = (
            selected.contents.items,
            self._progress[policy.name],
            self._copies(keys),
        )
        self._ledger.add_vault(target.uuid, target.config.name, target.config.settings.kind)
        items = {key: located[key] for key in keys if key in located}
        for key in keys:
            if key not in items:
                progress.failed[key] = "no record states where its content is"
        tasks = [
            CopyTask(item, sources)
            for key, item in items.items()
            if (
                sources := [
                    vault
                    for name, vault in self._vaults.items()
                    if name in elsewhere.get(key, ()) and name != target.config.name
                ]
            )
        ]
        done: set[str | None] = set()
        for outcome in copy_between(tasks, target, self._ledger, options, self._clock):
            if outcome.status == "ok":
                done.add(outcome.key)
                self._count(progress, outcome)
                yield outcome
        left = [item for key, item in items.items() if key not in done]
        if left and not _is_over(options):
            for outcome in run_keep(left, target, self._ledger, options):
                self._count(progress, outcome)
                yield outcome
        publish_copies(self._store, selected.contents, target, self._present(target, items))

    def _publish_all(self) -> bool:
        """Publish all copies, which a run that did not end well has not; return whether it did."""
        is_published = True
        for (policy, name), assigned in self.plan.assigned.items():
            vault = self._vaults.get(name)
            if vault is not None:
                kept = self._present(vault, (one.key for one in assigned))
                try:
                    publish_copies(self._store, self._selected[policy].contents, vault, kept)
                except (NeuromirrorError, OSError) as error:
                    is_published = False
                    progress = self._progress.setdefault(policy, _Progress())
                    progress.problems.append(f"vault {name}: {error}")
        return is_published

    def _present(self, vault: Vault, keys: Iterable[str]) -> list[str]:
        recorded = list(keys)
        lacking = set(self._ledger.missing(vault.uuid, recorded))
        return [key for key in recorded if key not in lacking]

    @staticmethod
    def _count(progress: _Progress, outcome: KeepOutcome) -> None:
        if outcome.status == "ok":
            progress.copied += 1
            progress.bytes += outcome.size or 0
        elif outcome.failed and outcome.key is not None:
            progress.failed[outcome.key] = outcome.message

    def _record_wishes(self) -> None:
        """Record which contents each vault has, or shall have, for a policy."""
        uuids = {one.name: one.uuid for one in self._ledger.vaults()}
        uuids |= {name: vault.uuid for name, vault in self._vaults.items()}
        current: set[tuple[str, str]] = set()
        for (policy, name), assigned in self.plan.assigned.items():
            if name in uuids:
                kind = self._configs[name].settings.kind
                self._ledger.add_vault(uuids[name], name, kind)
                wish = Wish(WISH_KIND, policy, uuids[name])
                contents = ((one.key, one.size or None) for one in assigned)
                # what cannot be read now is still to be kept
                is_partial = bool(self._selected[policy].problems)
                self._ledger.wishes.put(wish, contents, extend=is_partial)
                current.add((policy, uuids[name]))
        known = {one.name for one in self._policies.settings.keep}
        selected = {one.name for one in self._selected_policies}
        for one in self._ledger.wishes.all():
            is_over = one.what not in known or (
                one.what in selected and not self._selected[one.what].problems
            )
            if one.kind == WISH_KIND and is_over and (one.what, one.vault) not in current:
                self._ledger.wishes.remove(one.id)

    def _due(
        self, policy: Policy, lacking: Mapping[str, RequiredContent], now: datetime
    ) -> dict[str, MissingCopies]:
        """Return the contents whose missing copies have to be announced."""
        due = {
            one.content.key: one
            for one in self.plan.shortages
            if one.policy == policy.name and one.is_due and one.content.key in lacking
        }
        failed = self._progress.get(policy.name, _Progress()).failed
        planned = {one.content.key: one for one in self.plan.copies if one.policy == policy}
        for key, content in lacking.items():
            if key in due or content.horizon is None:
                continue
            left = content.horizon - now
            reason: ShortageReason = "upstream" if key in failed else "rate"
            if key not in failed and self.states[_vault_of(planned, key, policy)].problem:
                reason = "vault"
            limit = timedelta(days=_LAST_DAYS) if reason == "rate" else self._policies.announce
            if left <= limit:
                detail = failed.get(key) or self.states[_vault_of(planned, key, policy)].problem
                detail = detail or "they are not copied yet"
                due[key] = MissingCopies(policy.name, content, 1, reason, detail, is_due=True)
        return due

    def _status(
        self,
        policy: Policy,
        contents: Mapping[str, Mapping[str, RequiredContent]],
        lacking: Mapping[str, RequiredContent],
        due: Collection[str],
    ) -> PolicyStatus:
        mine = contents[policy.name]
        progress = self._progress.get(policy.name, _Progress())
        horizons = [one.horizon for one in lacking.values() if one.horizon is not None]
        before = PoliciesStatus.load(self._store).policies.get(policy.name) or PolicyStatus()
        rate = progress.bytes / progress.seconds if progress.seconds > 1 else before.rate
        failed = [f"{mine[key].dataset}: {why}" for key, why in progress.failed.items()]
        failed += progress.problems
        return PolicyStatus(
            contents=len(mine),
            bytes=sum(one.size for one in mine.values()),
            lacking=len(lacking),
            lacking_bytes=sum(one.size for one in lacking.values()),
            announced=len(due),
            horizon=min(horizons).isoformat(timespec="seconds") if horizons else "",
            rate=rate,
            problems=[*self._selected[policy.name].problems[:20], *sorted(set(failed))[:20]],
            locks=[str(one.path) for one in self._selected[policy.name].locks],
        )


def _is_over(options: KeepOptions) -> bool:
    late = options.until is not None and time.monotonic() >= options.until
    return late or options.is_stopping()


def _vault_of(planned: Mapping[str, PlannedCopy], key: str, policy: Policy) -> str:
    return planned[key].vault if key in planned else policy.vaults[0]


def _announcements(policy: str, missing: Sequence[MissingCopies]) -> list[Announcement]:
    """Return one announcement per dataset and reason."""
    groups: dict[tuple[str, ShortageReason], list[MissingCopies]] = {}
    for one in missing:
        groups.setdefault((one.content.dataset, one.reason), []).append(one)
    return [
        Announcement(
            *(policy, dataset, reason, some[0].detail, len(some)),
            bytes=sum(one.content.size for one in some),
            horizon=min((one.content.horizon for one in some if one.content.horizon), default=None),
            keys=tuple(one.content.key for one in some),
        )
        for (dataset, reason), some in groups.items()
    ]
