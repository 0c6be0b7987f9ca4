"""Run policies: copy what they keep into their vaults, and announce what cannot be kept in time."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import groupby
from typing import Final, Self

from msgspec.structs import replace

from neuromirror.config.policy_files import Policies, Policy
from neuromirror.config.vault_files import S3VaultFile, VaultConfig
from neuromirror.custody.announcements import Announcement, group_announcements
from neuromirror.custody.keep_outcomes import KeepOptions, KeepOutcome
from neuromirror.custody.keep_plan import check_privacy, may_create, publish_copies
from neuromirror.custody.policy_contents import (
    SelectedContents,
    locate_contents,
    remove_unused_locks,
    select_contents,
)
from neuromirror.custody.policy_plan import (
    CopyPlan,
    CostEstimate,
    RequiredContent,
    VaultState,
    find_due,
    plan_copies,
)
from neuromirror.custody.policy_status import PoliciesStatus, PolicyProgress, PolicyStatus
from neuromirror.custody.vault_copies import CopyTask, fill_vault, may_copy
from neuromirror.index import Index
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import LedgerEvent, Wish
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.store import Store
from neuromirror.vault.errors import VaultError, VaultUnavailableError
from neuromirror.vault.opening import open_vault
from neuromirror.vault.protocol import Vault

WISH_KIND: Final = "policy"
"""The kind of the wishes of policies in the ledger."""


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
        *,
        dry_run: bool = False,
    ) -> None:
        self._store = store
        self._index = index
        self._ledger = ledger
        self._configs = vaults
        self._policies = policies
        self._selected_policies = policies.find(names)
        self._dry_run = dry_run
        self._is_unpublished = False
        self._vaults: dict[str, Vault] = {}
        self._selected: dict[str, SelectedContents] = {}
        self._progress: dict[str, PolicyProgress] = {}
        self._closing = ExitStack()
        self.states: dict[str, VaultState] = {}
        """The state of each vault that a policy names."""
        self.plan = CopyPlan()
        """The plan of :meth:`prepare`."""

    def __enter__(self) -> Self:
        """Raise StoreBusyError during another run, whose results this one would replace."""
        if not self._dry_run:
            resource = f"the policy file {self._policies.path}"
            self._closing.enter_context(self._store.lock("policies", resource))
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @property
    def now(self) -> datetime:
        """The time."""
        return datetime.fromtimestamp(self._ledger.clock(), UTC)

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

        Raises
        ------
        ConfigurationError
            The policies of the store are in another file.
        """
        saved = PoliciesStatus.load(self._store)
        if not self._dry_run:
            saved.check_file(self._policies.path)
        for policy in self._selected_policies:
            for name in policy.vaults:
                if name not in self.states:
                    self.states[name] = self._open(name)
            self._selected[policy.name] = self.select(policy)
        keys = {one.key for some in self._selected.values() for one in some.required.contents}
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
        self._progress = {one.name: PolicyProgress() for one in self._selected_policies}
        down: set[str] = set()
        if self.plan.copies:
            status = PoliciesStatus.load(self._store)
            status.is_copying = True
            status.save(self._store)
        for (policy_name, vault), group in groupby(
            self.plan.copies, key=lambda one: (one.policy.name, one.vault)
        ):
            if options.is_over:
                return
            planned = list(group)
            policy, now = planned[0].policy, self.now
            keys = [one.content.key for one in planned if one.is_urgent or policy.is_open_at(now)]
            if vault in down or not keys:
                continue
            began = time.monotonic()
            try:
                for outcome in self._copy_group(policy, self._vaults[vault], keys, options):
                    if outcome.key is None and outcome.status == "error":
                        down.add(vault)
                        self._set_problem(vault, outcome.message)
                    yield outcome
            except (NeuromirrorError, OSError) as error:
                # the copies that were made before the error are not published yet
                self._is_unpublished = True
                if isinstance(error, VaultError):
                    down.add(vault)
                    self._set_problem(vault, str(error))
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
        if self._is_complete:
            remove_unused_locks(self._store, self._selected.values())
        is_published = not self._is_unpublished or self._publish_all()
        found: list[Announcement] = []
        status = PoliciesStatus.load(self._store)
        status.forget_others(self._policies.settings.keep)
        for policy in self._selected_policies:
            lacking = {
                key: one
                for key, one in contents[policy.name].items()
                if sum(name in policy.vaults for name in copies.get(key, ()))
                < policy.required_copies
            }
            due = find_due(
                self.plan,
                policy,
                lacking,
                self._progress.get(policy.name, PolicyProgress()).failed,
                self.states,
                now=now,
                announce=self._policies.announce,
            )
            new = self._ledger.events.announce(policy.name, list(due), self._ledger.clock())
            found += group_announcements(policy.name, [due[key] for key in new])
            before = status.policies.get(policy.name) or PolicyStatus()
            mine = contents[policy.name]
            status.policies[policy.name] = self._status(policy, mine, lacking, due, before)
        status.is_copying = not is_published
        status.file = str(self._policies.path.resolve())
        status.at = now.isoformat(timespec="seconds")
        for name, one in self.states.items():
            status.set_problem(name, one.problem)
        status.save(self._store)
        self._ledger.events.add(
            LedgerEvent(self._ledger.clock(), "shortage", one.message, dataset=one.dataset)
            for one in found
        )
        return found

    def _open(self, name: str) -> VaultState:
        config = self._configs[name]
        settings = config.settings
        problem, vault = "", None
        try:
            check_privacy(self._store, config)
            is_fixed = settings.read_only or self._dry_run
            create = not is_fixed and may_create(config, self._ledger)
            vault = open_vault(config, self._store, create=create)
            self._closing.callback(vault.close)
            vault.check_access(write=not settings.read_only)
            self._vaults[name] = vault
        except (VaultError, ConfigurationError, OSError) as error:
            # a vault that has copies, or that was opened, was made before
            is_new = self._dry_run and isinstance(error, VaultUnavailableError)
            is_new &= vault is None and not isinstance(settings, S3VaultFile)
            is_new &= may_create(config, self._ledger)
            problem = "" if is_new else str(error)
        return VaultState(
            problem,
            settings.read_only,
            settings.cost_per_gb_month or 0.0,
            settings.cost_per_1000_requests or 0.0,
        )

    def _set_problem(self, vault: str, problem: str) -> None:
        self.states[vault] = replace(self.states[vault], problem=problem)

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
        is_public = selected.contents.are_public(self._store)
        options = replace(options, allowed_hosts=hosts, with_credentials=is_public)
        if policy.bytes_per_second is not None:
            options = replace(options, bytes_per_second=policy.bytes_per_second)
        located, progress = selected.contents.items, self._progress[policy.name]
        elsewhere = self._copies(keys)
        self._ledger.add_vault(target.uuid, target.config.name, target.config.settings.kind)
        items = {key: located[key] for key in keys if key in located}
        for key in keys:
            if key not in items:
                progress.failed[key] = "upstream", "no record states where its content is"
        sources = {
            name: vault
            for name, vault in self._vaults.items()
            if vault is not target and may_copy(vault.config, target.config, options)
        }
        tasks = [
            CopyTask(item, [sources[name] for name in sources if name in elsewhere.get(key, ())])
            for key, item in items.items()
        ]
        for outcome in fill_vault(tasks, target, self._ledger, options):
            progress.add(outcome)
            yield outcome
        publish_copies(self._store, selected.contents, target, self._present(target, items))

    @property
    def _is_complete(self) -> bool:
        """Whether the contents of all policies are known."""
        is_complete = len(self._selected) == len(self._policies.settings.keep)
        return is_complete and not any(self.problems.values())

    def _publish_all(self) -> bool:
        """Publish the copies of the run's policies; return whether no copy is unpublished now."""
        is_published = self._is_complete
        for (policy, name), assigned in self.plan.assigned.items():
            vault = self._vaults.get(name)
            if vault is None:
                is_published = False
            else:
                kept = self._present(vault, (one.key for one in assigned))
                try:
                    publish_copies(self._store, self._selected[policy].contents, vault, kept)
                except (NeuromirrorError, OSError) as error:
                    is_published = False
                    progress = self._progress.setdefault(policy, PolicyProgress())
                    progress.problems.append(f"vault {name}: {error}")
        return is_published

    def _present(self, vault: Vault, keys: Iterable[str]) -> list[str]:
        recorded = list(keys)
        lacking = set(self._ledger.missing(vault.uuid, recorded))
        return [key for key in recorded if key not in lacking]

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

    def _status(
        self,
        policy: Policy,
        mine: Mapping[str, RequiredContent],
        lacking: Mapping[str, RequiredContent],
        due: Collection[str],
        before: PolicyStatus,
    ) -> PolicyStatus:
        progress = self._progress.get(policy.name, PolicyProgress())
        horizons = [one.horizon for one in lacking.values() if one.horizon is not None]
        rate = progress.bytes / progress.seconds if progress.seconds > 1 else before.rate
        failed = [f"{mine[key].dataset}: {why}" for key, (_, why) in progress.failed.items()]
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
