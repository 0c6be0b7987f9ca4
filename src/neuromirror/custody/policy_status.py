"""The result of the last run of each policy, for ``status``, metrics and the catalogue."""

from __future__ import annotations

from collections.abc import Collection
from typing import Self

import msgspec

from neuromirror.store import Store
from neuromirror.store.durable_files import make_folder, write_atomically


class PolicyStatus(msgspec.Struct, forbid_unknown_fields=True):
    """The result of the last run of a policy.

    Attributes
    ----------
    contents, bytes
        Number and size of the contents that it keeps.
    lacking, lacking_bytes
        Number and size of those that have fewer copies than wanted.
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


class PoliciesStatus(msgspec.Struct, forbid_unknown_fields=True):
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
        Whether a run is copying, or was killed while it did.
    """

    at: str = ""
    policies: dict[str, PolicyStatus] = {}
    vaults: dict[str, str] = {}
    is_copying: bool = False

    @classmethod
    def load(cls, store: Store) -> Self:
        """Return the saved results; empty ones without a file.

        Parameters
        ----------
        store
            The store.
        """
        try:
            return msgspec.json.decode(store.task_state_path("policies").read_bytes(), type=cls)
        except (FileNotFoundError, msgspec.DecodeError):
            return cls()

    def save(self, store: Store) -> None:
        """Save the results.

        Parameters
        ----------
        store
            The store.
        """
        path = store.task_state_path("policies")
        make_folder(path.parent)
        write_atomically(path, msgspec.json.encode(self) + b"\n", durable=False)

    def forget_others(self, names: Collection[str]) -> None:
        """Remove the results of policies that no longer exist.

        Parameters
        ----------
        names
            The names of the policies.
        """
        self.policies = {name: one for name, one in self.policies.items() if name in names}
