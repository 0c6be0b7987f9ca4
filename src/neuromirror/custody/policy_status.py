"""The result of the last run of each policy, for ``status``, metrics and the catalogue."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

from neuromirror.model import ConfigurationError
from neuromirror.store.task_states import TaskState

if TYPE_CHECKING:
    from neuromirror.config.policy_files import Policy
    from neuromirror.custody.keep_outcomes import KeepOutcome

ShortageReason = Literal["vault", "budget", "rate", "upstream"]
"""Why copies are missing.

``vault``: not enough vaults can be written. ``budget``: the maximum size of the policy is reached.
``rate``: copying takes longer than upstream keeps the content. ``upstream``: its URLs fail.
"""


class PolicyStatus(Struct, forbid_unknown_fields=True):
    """The result of the last run of a policy.

    Attributes
    ----------
    contents, bytes
        Number and size of the contents that it keeps.
    lacking, lacking_bytes
        Number and size of those that have fewer copies than required.
    announced
        Number of those that cannot be kept in time.
    horizon
        The earliest time (ISO 8601) at which upstream may delete one that lacks copies; empty if
        no such time is known.
    rate
        Measured rate of copying in bytes per second; 0 if unknown.
    problems
        What could not be read or copied, the first ones.
    locks
        Paths of the lock files of a policy for pins.
    """

    contents: int = 0
    bytes: int = 0
    lacking: int = 0
    lacking_bytes: int = 0
    announced: int = 0
    horizon: str = ""
    rate: float = 0.0
    problems: list[str] = []
    locks: list[str] = []


class PolicyProgress(Struct):
    """The copies that a run made for a policy.

    Attributes
    ----------
    bytes, seconds
        Size of the copies, and the time that they took.
    failed
        Why contents were not copied, by annex key.
    problems
        Other problems.
    """

    bytes: int = 0
    seconds: float = 0.0
    failed: dict[str, tuple[ShortageReason, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, outcome: KeepOutcome) -> None:
        """Count the outcome for a content.

        Parameters
        ----------
        outcome
            The outcome.
        """
        if outcome.status == "ok":
            self.bytes += outcome.size or 0
        elif outcome.failed and outcome.key is not None:
            reason: ShortageReason = "vault" if outcome.host == outcome.vault else "upstream"
            self.failed[outcome.key] = reason, outcome.message


class PoliciesStatus(TaskState):
    """The results of the last runs of all policies.

    Attributes
    ----------
    at
        When policies were run last (ISO 8601); empty for never.
    policies
        The result by name of the policy.
    vaults
        Why a vault could not be used, by its name.
    is_copying
        Whether a run is copying, or copies of earlier runs are not published yet.
    file
        The path of the file of the policies; empty for never.
    """

    task = "policies"
    at: str = ""
    policies: dict[str, PolicyStatus] = field(default_factory=dict)
    vaults: dict[str, str] = field(default_factory=dict)
    is_copying: bool = False
    file: str = ""

    def check_file(self, path: Path) -> None:
        """Refuse to run the policies of another file than before.

        Parameters
        ----------
        path
            The file.

        Raises
        ------
        ConfigurationError
            The other file still exists: each run would end what the other one keeps.
        """
        if self.file and self.file != str(path.resolve()) and Path(self.file).exists():
            raise ConfigurationError(
                f"{path}: the policies of this store are in {self.file}, and what they keep would "
                "not be kept any more; add these policies to that file, or remove it first"
            )

    def forget_others(self, policies: Collection[Policy]) -> None:
        """Remove the results of policies that no longer exist, and vaults that none of them names.

        Parameters
        ----------
        policies
            The policies.
        """
        names = {one.name for one in policies}
        vaults = {name for one in policies for name in one.vaults}
        self.policies = {name: one for name, one in self.policies.items() if name in names}
        self.vaults = {name: why for name, why in self.vaults.items() if name in vaults}

    def set_problem(self, vault: str, problem: str) -> None:
        """Record the state of a vault.

        Parameters
        ----------
        vault
            The name of the vault.
        problem
            Why it could not be used; empty if it could.
        """
        if problem:
            self.vaults[vault] = problem
        else:
            self.vaults.pop(vault, None)
