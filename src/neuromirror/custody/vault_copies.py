"""Copy contents from one vault to another, verified on the way."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from neuromirror.custody.keep import JOBS, KeepOptions, KeepOutcome
from neuromirror.custody.keep_plan import KeepItem
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import LedgerEvent, Stored
from neuromirror.model import NeuromirrorError
from neuromirror.store.durable_files import make_folder
from neuromirror.transfer.content_checks import check_for
from neuromirror.transfer.key_checksums import key_checksum
from neuromirror.transfer.rate_limit import RateLimit
from neuromirror.transfer.work_tree import map_in_order
from neuromirror.vault import CopyMissingError, CopyRefusedError, Vault, VaultError

_BLOCK: Final = 1 << 20
_PREFIX: Final = "copy-"
_LEFT_AFTER: Final = 86_400
"""Seconds after which a temporary file belongs to no running process."""


class DamagedCopyError(NeuromirrorError):
    """The bytes of a copy are not those of its key, or the vault does not have it."""


class CopyTask(NamedTuple):
    """A content and the vaults that have it."""

    item: KeepItem
    sources: Sequence[Vault]


def copy_content(
    key: str,
    source: Vault,
    target: Vault,
    folder: Path,
    pace: Callable[[int], None],
    *,
    replace: bool = False,
) -> Stored:
    """Copy a content between vaults; nothing is stored unless its bytes are right.

    Parameters
    ----------
    key
        The annex key.
    source, target
        The vaults.
    folder
        A folder for a temporary file.
    pace
        Called with the number of bytes that were read; may wait.
    replace
        Whether to remove first what the target has: git-annex does not send a content to a special
        remote that has its key.

    Returns
    -------
    Stored
        How the target confirmed that it has the bytes.

    Raises
    ------
    DamagedCopyError
        The source has other bytes or none.
    VaultError
        The target cannot be used.
    CopyRefusedError
        The source could not be read, or the target did not store it.
    """
    check, sha256 = check_for(key), hashlib.sha256()
    if check is None:
        raise CopyRefusedError(f"{key}: the kind of the key is not supported")
    with TemporaryDirectory(dir=folder, prefix=_PREFIX) as temporary:
        path = Path(temporary) / "content"
        try:
            with source.open(key) as file, path.open("wb") as out:
                while block := file.read(_BLOCK):
                    check.update(block)
                    sha256.update(block)
                    out.write(block)
                    pace(len(block))
        except CopyMissingError as error:
            raise DamagedCopyError(str(error)) from error
        except VaultError as error:
            raise CopyRefusedError(str(error)) from error
        except OSError as error:
            raise CopyRefusedError(f"{source.config.name}: {key}: {error}") from error
        if (why := check.mismatch()) is not None:
            raise DamagedCopyError(f"{source.config.name}: {why}")
        if replace:
            target.remove(key)
        return target.store(key, path, sha256.hexdigest())


def copy_between(
    tasks: Iterable[CopyTask],
    target: Vault,
    ledger: Ledger,
    options: KeepOptions,
    clock: Callable[[], float] = time.time,
) -> Iterator[KeepOutcome]:
    """Copy contents that other vaults have into a vault.

    Parameters
    ----------
    tasks
        The contents, in the order in which to copy them.
    target
        The vault.
    ledger
        The ledger: the copies are added, and damaged copies that are found are marked.
    options
        The options, as for :func:`~neuromirror.custody.keep.run_keep`.
    clock
        Returns POSIX seconds, for events.

    Yields
    ------
    KeepOutcome
        One per content that was tried; ``error`` if no vault has the right bytes.

    Raises
    ------
    VaultError
        The target cannot be used.
    """
    folder = ledger.path.parent / "uploads"
    make_folder(folder, durable=False)
    _remove_old_files(folder)
    stop, rate = threading.Event(), None
    if options.bytes_per_second is not None:
        rate = RateLimit(options.bytes_per_second)

    def pace(count: int) -> None:
        if rate is not None:
            rate.wait(count, stop)

    def copy(task: CopyTask) -> tuple[CopyTask, Stored | None, str, str]:
        problems = []
        for source in task.sources:
            if _is_over(options):
                return task, None, "", ""
            key = task.item.key
            replaced = not target.has_listing and _is_damaged(ledger, target, key)
            try:
                stored = copy_content(key, source, target, folder, pace, replace=replaced)
            except DamagedCopyError as error:
                _mark_damaged(ledger, source, task.item, str(error), clock())
                problems.append(str(error))
            except (CopyRefusedError, OSError) as error:
                problems.append(str(error))
            else:
                options.report_bytes(stored.size)
                return task, stored, source.config.name, ""
        return task, None, "", "; ".join(problems)

    for task, stored, source, problem in map_in_order(JOBS, stop, copy, tasks):
        item = task.item
        outcome = KeepOutcome(
            *("keep", "error", item.path, problem, item.dataset, item.version),
            key=item.key,
            size=item.size,
            vault=target.config.name,
        )
        if stored is not None:
            target.flush()
            if stored.method == "git-annex":  # does not show that the bytes are right
                ledger.forget(target.uuid, [stored.key])
            ledger.record(target.uuid, [stored])
            yield replace(
                outcome,
                status="ok",
                message=f"from {source}",
                size=stored.size,
                method=stored.method,
                checked="checked",
                evidence=key_checksum(stored.key).evidence,
            )
        elif problem:
            yield outcome


def _is_over(options: KeepOptions) -> bool:
    late = options.until is not None and time.monotonic() >= options.until
    return late or options.is_stopping()


def _is_damaged(ledger: Ledger, vault: Vault, key: str) -> bool:
    copies = ledger.copies([key], all_states=True).get(key, ())
    return any(one.vault == vault.uuid and one.state == "damaged" for one in copies)


def _remove_old_files(folder: Path) -> None:
    """Remove the temporary files of processes that were killed."""
    for one in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - one.stat().st_mtime > _LEFT_AFTER:
                shutil.rmtree(one)


def _mark_damaged(ledger: Ledger, vault: Vault, item: KeepItem, why: str, now: float) -> None:
    name = vault.config.name
    ledger.mark(vault.uuid, [item.key], "damaged", "full-read")
    event = LedgerEvent(now, "damaged", why, name, item.key, item.dataset)
    ledger.events.add([event])
