"""Release of holds, with or without a running service."""

from __future__ import annotations

import time
from pathlib import Path

from neuromirror.crawl import open_recorder, release_hold
from neuromirror.index import Schedule
from neuromirror.store import Store


def release_and_make_due(store: Store, index_path: Path, hold: str) -> str:
    """Release a hold and make its dataset due, for the running or the next service.

    Parameters
    ----------
    store, index_path
        The store and its index.
    hold
        The id of the hold, or its first digits.

    Returns
    -------
    str
        The name of the dataset.

    Raises
    ------
    ConfigurationError
        If ``hold`` names no open hold, or several.
    """
    with open_recorder(store, index_path) as recorder:
        dataset = release_hold(recorder, hold)
    if store.schedule_path.exists():
        with Schedule.open(store.schedule_path) as schedule:
            schedule.make_due(dataset, time.time())
    return dataset
