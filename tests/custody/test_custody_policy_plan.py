"""Plans of policies: order, budgets, rates and shortages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from neuromirror.config.policy_files import Policy
from neuromirror.custody.policy_plan import (
    CopyPlan,
    PolicyContents,
    RequiredContent,
    VaultState,
    plan_copies,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
GB = 10**9
NAS, CLOUD, TAPE = (
    VaultState(),
    VaultState(cost_per_gb_month=0.01, cost_per_1000_requests=5.0),
    VaultState(),
)
VAULTS = {"nas": NAS, "cloud": CLOUD, "tape": TAPE}


def policy(**fields: object) -> Policy:
    """Return a policy of all versions, with some other fields."""
    return Policy.model_validate({"name": "p", "what": "all", "vaults": ["nas", "cloud"]} | fields)


def content(name: str, days: float | None = None, size: int = GB) -> RequiredContent:
    """Return a content that upstream may delete in some days."""
    horizon = None if days is None else NOW + timedelta(days=days)
    return RequiredContent(f"MD5-s{size}--{name}", size, "dandi:000001", horizon)


def plan(
    one: Policy,
    contents: list[RequiredContent],
    copies: dict[str, set[str]] | None = None,
    vaults: dict[str, VaultState] | None = None,
    rates: dict[str, float] | None = None,
) -> CopyPlan:
    """Plan the copies of one policy."""
    return plan_copies(
        [PolicyContents(one, contents)],
        copies or {},
        vaults or VAULTS,
        now=NOW,
        announce=timedelta(days=14),
        rates=rates,
    )


def names(found: CopyPlan) -> list[tuple[str, str]]:
    """Return the last part of the key and the vault of each copy."""
    return [(one.content.key[-1], one.vault) for one in found.copies]


def test_content_about_to_be_deleted_comes_first_and_first_copies_before_second_ones() -> None:
    found = plan(policy(), [content("a"), content("b", 20), content("c", 3), content("d", 3.1)])
    assert names(found) == [
        *(("c", "nas"), ("d", "nas"), ("c", "cloud"), ("d", "cloud")),
        *(("b", "nas"), ("b", "cloud"), ("a", "nas"), ("a", "cloud")),
    ]
    assert [one.is_urgent for one in found.copies] == [True] * 4 + [False] * 4
    assert found.shortages == []


def test_existing_copies_are_not_planned_again_and_every_content_counts_once() -> None:
    found = plan(
        policy(), [content("a"), content("a", 3), content("b")], {"MD5-s1000000000--a": {"nas"}}
    )
    assert names(found) == [("a", "cloud"), ("b", "nas"), ("b", "cloud")]
    assert found.copies[0].content.horizon == NOW + timedelta(days=3)
    assert {vault: len(some) for (_, vault), some in found.assigned.items()} == {
        "nas": 2,
        "cloud": 2,
    }


def test_copies_in_vaults_that_the_policy_does_not_name_do_not_count() -> None:
    found = plan(policy(vaults=["nas"]), [content("a")], {"MD5-s1000000000--a": {"tape"}})
    assert names(found) == [("a", "nas")]


def test_the_next_vault_replaces_one_that_is_down() -> None:
    down = VAULTS | {"nas": VaultState(problem="cannot be reached")}
    found = plan(policy(vaults=["nas", "cloud", "tape"], copies=2), [content("a", 3)], vaults=down)
    assert names(found) == [("a", "cloud"), ("a", "tape")]
    assert found.shortages == []


def test_a_vault_that_is_down_is_announced_only_as_the_deletion_comes_near() -> None:
    down = VAULTS | {"nas": VaultState(problem="cannot be reached")}
    found = plan(policy(), [content("a", 13), content("b", 15), content("c")], vaults=down)
    assert names(found) == [("a", "cloud"), ("b", "cloud"), ("c", "cloud")]
    assert {
        (one.content.key[-1], one.reason, one.missing, one.is_due) for one in found.shortages
    } == {
        ("a", "vault", 1, True),
        ("b", "vault", 1, False),
        ("c", "vault", 1, False),
    }
    assert "cannot be reached" in found.shortages[0].detail


def test_a_budget_is_spent_on_content_about_to_be_deleted_and_the_rest_is_announced_at_once() -> (
    None
):
    one = policy(vaults=["nas"], max_gigabytes=2.5)
    required = [content("a"), content("b", 25), content("c", 5), content("d", None, 400_000_000)]
    found = plan(one, required)
    assert names(found) == [("c", "nas"), ("b", "nas"), ("d", "nas")]
    (short,) = found.shortages
    assert (short.content.key[-1], short.reason, short.is_due) == ("a", "budget", True)


def test_existing_copies_use_the_budget() -> None:
    one = policy(vaults=["nas"], max_gigabytes=1)
    found = plan(one, [content("a"), content("b")], {"MD5-s1000000000--a": {"nas"}})
    assert names(found) == []
    assert [one.content.key[-1] for one in found.shortages] == ["b"]


def test_what_cannot_be_copied_in_time_is_announced_at_once() -> None:
    one = policy(vaults=["nas"], megabytes_per_second=1)
    # 1 MB/s are 86.4 GB per day
    found = plan(one, [content("a", 20, 1700 * GB), content("b", 20, 100 * GB)])
    assert names(found) == [("b", "nas"), ("a", "nas")]
    (short,) = found.shortages
    assert (short.content.key[-1], short.reason, short.is_due) == ("a", "rate", True)


def test_hours_and_measured_rates_reduce_what_can_be_copied_in_time() -> None:
    required = [content("a", 20, 1000 * GB)]
    fast = policy(vaults=["nas"], megabytes_per_second=1)
    assert plan(fast, required).shortages == []
    nightly = policy(vaults=["nas"], megabytes_per_second=1, hours="20:00-06:00")
    assert [one.reason for one in plan(nightly, required).shortages] == ["rate"]
    assert [one.reason for one in plan(fast, required, rates={"p": 4e5}).shortages] == ["rate"]


def test_two_policies_share_the_copies_that_both_want() -> None:
    first = policy(name="first", vaults=["nas"])
    second = policy(name="second", vaults=["nas", "tape"])
    found = plan_copies(
        [PolicyContents(first, [content("a")]), PolicyContents(second, [content("a")])],
        *({}, VAULTS),
        now=NOW,
        announce=timedelta(days=14),
    )
    assert names(found) == [("a", "nas"), ("a", "tape")]
    assert ("second", "nas") in found.assigned


def test_a_plan_states_what_its_copies_cost() -> None:
    found = plan(policy(), [content("a", None, 100 * GB), content("b", None, 1000)])
    costs = found.costs(VAULTS)
    assert costs["nas"].per_month == 0
    assert (costs["cloud"].contents, costs["cloud"].bytes) == (2, 100 * GB + 1000)
    assert round(costs["cloud"].per_month, 3) == 1.0
    # 1,491 parts, the start and the end of the upload, and one request for the small content
    assert round(costs["cloud"].once, 3) == round(1494 / 1000 * 5.0, 3)
