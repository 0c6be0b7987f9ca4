"""Which copies policies lack, in which order they are made, and which cannot be made in time.

Pure functions of the required contents, the existing copies, the state of the vaults and the time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from msgspec import Struct, field

from neuromirror.config.policy_files import Policy
from neuromirror.custody.policy_status import ShortageReason

PART_SIZE = 64 << 20
"""Size in bytes of a part of an upload, for estimates of the number of requests."""

_GIGABYTE = 10**9
_FAR = datetime.max.replace(tzinfo=UTC)

_LAST_DAYS: Final = 8
"""Days before a deletion upstream at which every missing copy is announced, whatever the reason.

One more than the seven that are promised, because the service may be stopped for a day.
"""


class RequiredContent(NamedTuple):
    """A content that a policy keeps.

    Attributes
    ----------
    key
        The annex key.
    size
        The size in bytes; 0 if unknown.
    dataset
        The name of the dataset, for messages.
    horizon
        The earliest time at which upstream may delete it; None if no such time is known.
    """

    key: str
    size: int
    dataset: str
    horizon: datetime | None = None


class PolicyContents(Struct, frozen=True):
    """A policy and the contents that it keeps."""

    policy: Policy
    contents: Sequence[RequiredContent]


class VaultState(Struct, frozen=True):
    """The state of a vault, for a plan.

    Attributes
    ----------
    problem
        Why nothing can be stored in it at present; empty if it can.
    is_read_only
        Whether its file says that nothing may be stored in it.
    cost_per_gb_month, cost_per_1000_requests
        Its prices.
    """

    problem: str = ""
    is_read_only: bool = False
    cost_per_gb_month: float = 0.0
    cost_per_1000_requests: float = 0.0

    @property
    def is_writable(self) -> bool:
        """Whether contents can be stored in it now."""
        return not self.problem and not self.is_read_only


class PlannedCopy(NamedTuple):
    """A copy to make: a content and the name of a vault, for a policy.

    ``is_urgent``: upstream may delete the content within the time of announcements. ``rank`` is the
    number of copies that the content has without this one.
    """

    policy: Policy
    vault: str
    content: RequiredContent
    is_urgent: bool
    rank: int


class MissingCopies(NamedTuple):
    """A content with fewer copies than a policy requires, for a reason that outlasts the plan.

    ``is_due``: it has to be announced now.
    """

    policy: str
    content: RequiredContent
    missing: int
    reason: ShortageReason
    detail: str
    is_due: bool


class CostEstimate(Struct, frozen=True):
    """What planned copies add to a vault.

    Attributes
    ----------
    contents, bytes
        Number and total size of the copies.
    per_month
        Price of their storage per month.
    once
        Price of the requests that store them.
    """

    contents: int = 0
    bytes: int = 0
    per_month: float = 0.0
    once: float = 0.0


class CopyPlan(Struct):
    """The result of :func:`plan_copies`.

    Attributes
    ----------
    copies
        The copies to make, most urgent first.
    shortages
        The contents that will lack copies.
    complete
        Number of contents by policy that have all copies.
    assigned
        Contents by policy and vault: those that the vault has for the policy or shall get.
    """

    copies: list[PlannedCopy] = field(default_factory=list)
    shortages: list[MissingCopies] = field(default_factory=list)
    complete: dict[str, int] = field(default_factory=dict)
    assigned: dict[tuple[str, str], list[RequiredContent]] = field(default_factory=dict)

    def costs(self, vaults: Mapping[str, VaultState]) -> dict[str, CostEstimate]:
        """Return what the copies add to each vault, by its name."""
        found: dict[str, CostEstimate] = {}
        for one in self.copies:
            before, state, size = (
                found.get(one.vault) or CostEstimate(),
                vaults[one.vault],
                one.content.size,
            )
            requests = max(1, math.ceil(size / PART_SIZE))
            requests += 2 * (requests > 1)
            found[one.vault] = CostEstimate(
                before.contents + 1,
                before.bytes + size,
                before.per_month + size / _GIGABYTE * state.cost_per_gb_month,
                before.once + requests / 1000 * state.cost_per_1000_requests,
            )
        return found


def plan_copies(
    required: Iterable[PolicyContents],
    copies: Mapping[str, Collection[str]],
    vaults: Mapping[str, VaultState],
    *,
    now: datetime,
    announce: timedelta,
    rates: Mapping[str, float] | None = None,
) -> CopyPlan:
    """Plan the copies that policies lack.

    Contents that upstream may delete come first, those with the earliest time before the others
    (to the day); among equals the first copy of a content comes before the second one of another.

    Parameters
    ----------
    required
        The policies, most important first, with their contents.
    copies
        Names of the vaults that have a content, by annex key; copies that do not count left out.
    vaults
        The state of the vaults by name.
    now
        The time, with a time zone.
    announce
        How long before a deletion upstream missing copies are announced.
    rates
        Measured rates of copying in bytes per second, by name of the policy.

    Returns
    -------
    CopyPlan
        The copies to make, and the contents that lack copies.
    """
    plan, planned = CopyPlan(), set[tuple[str, str]]()
    for one in required:
        _plan_policy(plan, one, copies, vaults, planned, now, announce)
    plan.copies.sort(key=_priority)
    _find_late(plan, now, announce, rates or {})
    return plan


def _plan_policy(
    plan: CopyPlan,
    one: PolicyContents,
    copies: Mapping[str, Collection[str]],
    vaults: Mapping[str, VaultState],
    planned: set[tuple[str, str]],
    now: datetime,
    announce: timedelta,
) -> None:
    """Choose a vault for each missing copy of a policy, as long as its budget lasts."""
    policy = one.policy
    contents = _distinct(one.contents)
    used = dict.fromkeys(policy.vaults, 0)
    lacking = []
    for content in contents:
        have = copies.get(content.key, ())
        here = [name for name in policy.vaults if name in have or (name, content.key) in planned]
        for name in here[: policy.required_copies]:
            used[name] += content.size
            plan.assigned.setdefault((policy.name, name), []).append(content)
        if len(here) < policy.required_copies:
            lacking.append((content, here))
    plan.complete[policy.name] = len(contents) - len(lacking)
    lacking.sort(key=lambda found: (_day(found[0].horizon), len(found[1]), found[0].size))
    for content, here in lacking:
        urgent = content.horizon is not None and content.horizon - now <= announce
        missing, full = policy.required_copies - len(here), ""
        rest = [name for name in policy.vaults if name not in here]
        for name in rest:
            if not missing or not vaults[name].is_writable:
                continue
            if policy.max_bytes is not None and used[name] + content.size > policy.max_bytes:
                full = full or name
                continue
            used[name] += content.size
            missing -= 1
            plan.copies.append(PlannedCopy(policy, name, content, urgent, len(here)))
            here.append(name)
            planned.add((name, content.key))
            plan.assigned.setdefault((policy.name, name), []).append(content)
        if missing:
            for name in [name for name in rest if name not in here][:missing]:
                plan.assigned.setdefault((policy.name, name), []).append(content)
            detail = _vault_problem(rest, here, vaults)
            reason: ShortageReason = "vault" if detail and not full else "budget"
            if reason == "budget":
                detail = f"{full} has {policy.max_gigabytes:g} GB of this policy, its maximum"
            # a vault may come back in time, a budget does not grow
            due = urgent or reason == "budget"
            plan.shortages.append(MissingCopies(policy.name, content, missing, reason, detail, due))


def _vault_problem(
    names: Sequence[str], used: Collection[str], vaults: Mapping[str, VaultState]
) -> str:
    problems = [
        f"{name}: {vaults[name].problem or 'it is read-only'}"
        for name in names
        if name not in used and not vaults[name].is_writable
    ]
    return "; ".join(problems)


def _distinct(contents: Iterable[RequiredContent]) -> list[RequiredContent]:
    """Return each content once, with its earliest horizon."""
    found: dict[str, RequiredContent] = {}
    for one in contents:
        known = found.get(one.key)
        if known is None or (one.horizon or _FAR) < (known.horizon or _FAR):
            found[one.key] = one
    return list(found.values())


def _day(horizon: datetime | None) -> int:
    return (horizon or _FAR).toordinal()


def _priority(one: PlannedCopy) -> tuple[int, int, int, str, str]:
    content = one.content
    return _day(content.horizon), one.rank, content.size, content.key, one.vault


def _find_late(
    plan: CopyPlan, now: datetime, announce: timedelta, rates: Mapping[str, float]
) -> None:
    """Find the copies that are finished only after upstream may have deleted the content."""
    done: dict[str, int] = {}
    late: dict[tuple[str, str], MissingCopies] = {}
    for one in plan.copies:
        policy, content = one.policy, one.content
        done[policy.name] = done.get(policy.name, 0) + content.size
        limits = [rate for rate in (policy.bytes_per_second, rates.get(policy.name)) if rate]
        if not limits or content.horizon is None:
            continue
        # urgent content is copied at any time of the day
        share = 1.0 if content.horizon - now <= announce else policy.open_share
        seconds = done[policy.name] / (min(limits) * share)
        if seconds <= (content.horizon - now).total_seconds():
            continue
        days = seconds / 86_400
        detail = f"at {min(limits) / 1e6:g} MB/s the copies before it take {days:.1f} days"
        found = late.get((policy.name, content.key))
        count = 1 if found is None else found.missing + 1
        late[policy.name, content.key] = MissingCopies(
            policy.name, content, count, "rate", detail, is_due=True
        )
    plan.shortages.extend(late.values())


def find_due(
    plan: CopyPlan,
    policy: Policy,
    lacking: Mapping[str, RequiredContent],
    failed: Mapping[str, tuple[ShortageReason, str]],
    vaults: Mapping[str, VaultState],
    *,
    now: datetime,
    announce: timedelta,
) -> dict[str, MissingCopies]:
    """Find the contents whose missing copies have to be announced after a run.

    Parameters
    ----------
    plan
        The plan of the run.
    policy
        The policy.
    lacking
        The contents that still lack copies, by annex key.
    failed
        Why contents were not copied, by annex key.
    vaults
        The state of the vaults by name.
    now
        The time, with a time zone.
    announce
        How long before a deletion upstream missing copies are announced.

    Returns
    -------
    dict
        The contents to announce, by annex key.
    """
    due = {
        one.content.key: one
        for one in plan.shortages
        if one.policy == policy.name and one.is_due and one.content.key in lacking
    }
    planned = {one.content.key: one.vault for one in plan.copies if one.policy == policy}
    for key, content in lacking.items():
        if key in due or content.horizon is None:
            continue
        problem = vaults[planned.get(key, policy.vaults[0])].problem
        otherwise: tuple[ShortageReason, str] = (
            ("vault", problem) if problem else ("rate", "they are not copied yet")
        )
        reason, detail = failed.get(key, otherwise)
        limit = timedelta(days=_LAST_DAYS) if reason == "rate" else announce
        if content.horizon - now <= limit:
            due[key] = MissingCopies(policy.name, content, 1, reason, detail, is_due=True)
    return due
