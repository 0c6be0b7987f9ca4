"""Name in a lock file the vaults that have copies of its pinned files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from neuromirror.lab.exclusive_write import exclusive_write
from neuromirror.lab.lockfile import Lock, dump_lock, load_lock, parse_lock, read_lock_bytes
from neuromirror.lab.pinned_vaults import MOST_VAULTS, PinnedVault
from neuromirror.model import ConfigurationError
from neuromirror.store import write_atomically


def add_vaults(path: Path, vaults: Mapping[str, Sequence[PinnedVault]]) -> list[str]:
    """Add vaults to the pins of a lock file, so that it can be restored from them alone.

    A vault that a pin names already is replaced: its URL may have changed. All else in the file
    stays, and a file in which nothing changes is not written.

    Parameters
    ----------
    path
        The path of the lock file.
    vaults
        The vaults to add, by the name of the pinned dataset. A name without a pin is ignored.

    Returns
    -------
    list of str
        The names of the datasets whose pins changed.

    Raises
    ------
    LockUnusableError
        The file is missing or not a valid lock file.
    LockBusyError
        Another process is writing it.
    ConfigurationError
        A value is not valid in a lock file, or a pin would have too many vaults.
    """
    load_lock(path)  # a missing file has one clear error
    changed = []
    with exclusive_write(path):
        content = read_lock_bytes(path)
        lock = parse_lock(path, content)
        pins = []
        for pin in lock.datasets:
            known = {one.uuid: one for one in pin.copies}
            known |= {one.uuid: one for one in vaults.get(pin.name, ())}
            copies = tuple(sorted(known.values(), key=lambda one: (one.name, one.uuid)))
            if problem := next(filter(None, (one.problem() for one in copies)), ""):
                raise ConfigurationError(f"{path}, {pin.name}: {problem}; nothing was changed")
            if len(copies) > MOST_VAULTS:
                raise ConfigurationError(
                    f"{path}, {pin.name}: a pin names at most {MOST_VAULTS} vaults; nothing was "
                    "changed"
                )
            if copies != pin.copies:
                changed.append(pin.name)
            pins.append(msgspec.structs.replace(pin, copies=copies))
        if changed:
            write_atomically(path, dump_lock(Lock(path, tuple(pins)), content))
    return changed
