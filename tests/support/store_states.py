"""Time-independent contents of a store, to compare stores by."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuromirror.model import VersionMinted
from support.mirror_harness import MirrorHarness, run_git


def comparable_states(mirror_harness: MirrorHarness) -> dict[str, str]:
    """Return the trees of each dataset's refs, and the commits of published versions.

    Other commits contain dates.
    """
    found = {}
    for name, commit in mirror_harness.refs().items():
        alias, ref = name.split(" ")
        if "--" not in alias or ref.endswith("/git-annex"):
            continue  # superdatasets contain commits, and the git-annex branch has dates
        tree = run_git(mirror_harness.repository(alias), "rev-parse", f"{commit}^{{tree}}").strip()
        found[name] = commit if "/published" in ref else tree
    return found


def minted_counts(mirror_harness: MirrorHarness) -> Counter[tuple[str, ...]]:
    """Return how often each state was recorded."""
    entries = mirror_harness.entries(VersionMinted)
    return Counter((entry.mirror, entry.local_id, entry.upstream, entry.state) for entry in entries)


def assert_same_as_sync(mirror_harness: MirrorHarness, folder: Path) -> None:
    """Check that the store is intact and has each result of a plain sync exactly once.

    A sync runs the last visits; no lock or lease may block it.
    """
    ended = mirror_harness.sync()
    assert {name: one.message for name, one in ended.items() if one.exit_code} == {}
    other = MirrorHarness(mirror_harness.mirrors, folder)
    other.sync()
    other.sync()  # one of the datasets waits for a checksum in its first visit
    assert comparable_states(mirror_harness) == comparable_states(other)
    assert minted_counts(mirror_harness) == minted_counts(other)
    assert set(minted_counts(mirror_harness).values()) == {1}
    mirror_harness.fsck(killed=True)


def wait_until(true: Callable[[], Any], seconds: float = 600) -> Any:
    """Wait until a condition is true; return its value."""
    last = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < last, "it did not come about"
        time.sleep(0.005)
    return found


def is_alive(pid: int) -> bool:
    """Return whether the process exists, or a thread of it that is not dead yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except (ProcessLookupError, FileNotFoundError):
        return False
