"""Options of a run, and the policy of the store that it writes to."""

from __future__ import annotations

from collections.abc import Callable, Container
from contextlib import AbstractContextManager, nullcontext

from msgspec import Struct

from neuromirror.crawl.results import Result
from neuromirror.model import DatasetRef, NeuromirrorError

DEFAULT_JOBS = 16
"""Default number of concurrent visits: most of a visit is waiting for the archive."""


class RunOptions(Struct, frozen=True):
    """Options of a run: ``deep`` and ``history`` as in :class:`~neuromirror.crawl.Sync`.

    ``jobs`` is the number of concurrent visits.
    """

    deep: bool = False
    history: bool = False
    jobs: int = DEFAULT_JOBS

    @property
    def visit_all_reason(self) -> str:
        """Why all datasets are visited even if the overview reports no change; empty if not."""
        if self.deep:
            return "deep visit"
        return "looking for earlier states" if self.history else ""


class VisitSkippedError(NeuromirrorError):
    """The dataset must not be visited now; not a failure, and nothing is recorded."""


Claim = Callable[[DatasetRef], AbstractContextManager[object]]
"""Keeps other processes away from a dataset during the block.

Raises VisitSkippedError if another process has the dataset.
"""


def _no_claim(dataset: DatasetRef) -> AbstractContextManager[object]:
    return nullcontext()


class VisitPolicy(Struct, frozen=True):
    """The store-specific treatment of some datasets.

    Attributes
    ----------
    in_private_store
        Datasets that are visited in any case, because they have to be moved.
    prepare
        Called before a visit, under the dataset's lock; returns the start of the result's message,
        or raises VisitSkippedError if the dataset must not be visited now.
    unavailable_result
        Returns the result for a dataset that cannot be read, given the reason; None for no result.
    is_excluded
        Whether a dataset does not belong in the store.
    claim
        Returns a context manager that is held while a dataset is visited.
    """

    in_private_store: Container[DatasetRef] = ()
    prepare: Callable[[DatasetRef], str] = lambda dataset: ""
    unavailable_result: Callable[[DatasetRef, str], Result | None] = lambda dataset, reason: Result(
        dataset.name, "notneeded", reason
    )
    is_excluded: Callable[[DatasetRef], bool] = lambda dataset: False
    claim: Claim = _no_claim
