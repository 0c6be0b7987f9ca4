"""Copy contents from one vault to another, verified on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final, NamedTuple

from msgspec.structs import replace

from neuromirror.config.vault_files import VaultConfig
from neuromirror.custody.copy_batch import CopyBatch
from neuromirror.custody.copy_checks import Fault, look_up_copies, record_faults
from neuromirror.custody.keep import run_keep
from neuromirror.custody.keep_outcomes import KeepOptions, KeepOutcome, item_outcome
from neuromirror.custody.keep_plan import KeepItem
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import Stored
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.store import Store
from neuromirror.store.durable_files import make_folder
from neuromirror.transfer.content_checks import check_for
from neuromirror.transfer.rate_limit import RateLimit
from neuromirror.transfer.work_tree import map_in_order
from neuromirror.vault.errors import CopyMissingError, CopyRefusedError, VaultError
from neuromirror.vault.object_files import PARTIAL_PREFIX, remove_old_partials
from neuromirror.vault.opening import open_vault
from neuromirror.vault.protocol import Presence, Vault

_BLOCK: Final = 1 << 20


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
    OSError
        The temporary file cannot be written.
    """
    check = check_for(key)
    if check is None:
        raise CopyRefusedError(f"{key}: the kind of the key is not supported")
    with NamedTemporaryFile(dir=folder, prefix=PARTIAL_PREFIX) as out:
        for block in _blocks(source, key):
            check.update(block)
            if check.is_too_long:
                break
            out.write(block)
            pace(len(block))
        if (why := check.mismatch()) is not None:
            raise DamagedCopyError(f"{source.config.name}: {why}")
        out.flush()
        return target.store(key, Path(out.name))


def _blocks(source: Vault, key: str) -> Iterator[bytes]:
    """Yield the bytes of a copy; errors of the vault are those of the content."""
    try:
        with source.open(key) as file:
            while block := file.read(_BLOCK):
                yield block
    except CopyMissingError as error:
        raise DamagedCopyError(str(error)) from error
    except VaultError as error:
        raise CopyRefusedError(str(error)) from error
    except OSError as error:
        raise CopyRefusedError(f"{source.config.name}: {key}: {error}") from error


def keep_contents(
    items: Mapping[str, KeepItem],
    target: Vault,
    others: Sequence[VaultConfig],
    store: Store | None,
    ledger: Ledger,
    options: KeepOptions,
) -> Iterator[KeepOutcome]:
    """Copy contents into a vault: from upstream, and what upstream does not provide from others.

    Parameters
    ----------
    items
        The contents by annex key, in the order in which to copy them.
    target
        The vault.
    others
        The configured vaults; each is opened only if a content could not be downloaded.
    store
        The store that has the folders of vaults without a path; None without a store.
    ledger, options
        As for :func:`copy_between`.

    Yields
    ------
    KeepOutcome
        Those of :func:`~neuromirror.custody.keep.run_keep`; the message also states why a content
        could not be copied from the other vaults.

    Raises
    ------
    VaultError
        The target cannot be used.
    """
    failed: dict[str, KeepOutcome] = {}
    is_over = False
    for outcome in run_keep(items.values(), target, ledger, options):
        is_over |= outcome.key is None
        # other failures are those of the vault itself
        if outcome.key is not None and outcome.failed and outcome.host != target.config.name:
            failed[outcome.key] = outcome
        else:
            yield outcome
    usable = [
        one
        for one in others
        if one.name != target.config.name and may_copy(one, target.config, options)
    ]
    if not failed or is_over:
        usable = []
    problems: list[str] = []
    with ExitStack() as stack:
        sources: dict[str, list[Vault]] = {key: [] for key in failed}
        for config in usable:
            try:
                vault = stack.enter_context(closing(open_vault(config, store)))
                ledger.add_vault(vault.uuid, config.name, config.settings.kind)
                for key, found in look_up_copies(vault, list(failed)):
                    if isinstance(found, Presence) and found.size is not None:
                        sources[key].append(vault)
            except (VaultError, ConfigurationError) as error:
                problems.append(str(error))
        tasks = [CopyTask(items[key], some) for key, some in sources.items() if some]
        for outcome in copy_between(tasks, target, ledger, options):
            assert outcome.key is not None
            if outcome.status == "ok":
                del failed[outcome.key]
                yield outcome
            else:
                failed[outcome.key] = _add_reasons(failed[outcome.key], outcome.message)
    for outcome in failed.values():
        yield _add_reasons(outcome, *problems)


def may_copy(source: VaultConfig, target: VaultConfig, options: KeepOptions) -> bool:
    """Return whether the contents of a run may be copied from a vault to another.

    Parameters
    ----------
    source, target
        The configured vaults.
    options
        The options of the run.

    Returns
    -------
    bool
        False if the source is private, others can read the target, and the contents may not be
        public.
    """
    return target.settings.private or options.with_credentials or not source.settings.private


def _add_reasons(outcome: KeepOutcome, *reasons: str) -> KeepOutcome:
    """Add to a message why a content could not be copied from other vaults either."""
    if not reasons:
        return outcome
    message = "; ".join((outcome.message or "from upstream", *reasons))
    return replace(outcome, message=message, host=None)


def fill_vault(
    tasks: Sequence[CopyTask],
    target: Vault,
    ledger: Ledger,
    options: KeepOptions,
) -> Iterator[KeepOutcome]:
    """Copy contents into a vault: from other vaults that have them, else from upstream.

    Parameters
    ----------
    tasks
        The contents, in the order in which to copy them, with the vaults that have them, if any.
    target, ledger, options
        As for :func:`copy_between`.

    Yields
    ------
    KeepOutcome
        Those of :func:`~neuromirror.custody.keep.run_keep`; the message also states why a content
        could not be copied from the other vaults.

    Raises
    ------
    VaultError
        The target cannot be used.
    """
    left = {one.item.key: one.item for one in tasks}
    problems: dict[str | None, str] = {}
    from_vaults = [one for one in tasks if one.sources]
    for outcome in copy_between(from_vaults, target, ledger, options):
        if outcome.status == "ok":
            left.pop(outcome.key or "")
            yield outcome
        else:
            problems[outcome.key] = outcome.message
    if not left or options.is_over:
        return
    for outcome in run_keep(left.values(), target, ledger, options):
        if (problem := problems.get(outcome.key)) is not None:
            yield _add_reasons(outcome, problem)
        else:
            yield outcome


def copy_between(
    tasks: Iterable[CopyTask],
    target: Vault,
    ledger: Ledger,
    options: KeepOptions,
) -> Generator[KeepOutcome, None, None]:
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

    Yields
    ------
    KeepOutcome
        One per content that was tried: ``ok`` once its copy is durable and recorded, ``error`` if
        no vault has the right bytes.

    Raises
    ------
    VaultError
        The target cannot be used.
    """
    batch = CopyBatch(target, ledger)
    yield from batch.commit_after(_copies_between(tasks, target, ledger, options, batch))


def _copies_between(
    tasks: Iterable[CopyTask],
    target: Vault,
    ledger: Ledger,
    options: KeepOptions,
    batch: CopyBatch,
) -> Generator[KeepOutcome, None, None]:
    """Add copies to a batch; yield the outcomes of failures and of recorded copies."""
    folder = ledger.path.parent / "uploads"
    make_folder(folder, durable=False)
    remove_old_partials(folder)
    stop, rate = threading.Event(), None
    if options.bytes_per_second is not None:
        rate = RateLimit(options.bytes_per_second)

    def pace(count: int) -> None:
        if rate is not None:
            rate.wait(count, stop)

    def copy(task: CopyTask) -> tuple[CopyTask, Stored | None, str, str]:
        problems = []
        for source in task.sources:
            if options.is_over:
                return task, None, "", ""
            key = task.item.key
            try:
                stored = copy_content(key, source, target, folder, pace)
            except DamagedCopyError as error:
                fault = Fault(key, "damaged", str(error), task.item.dataset)
                record_faults(source, ledger, [fault])
                problems.append(str(error))
            except CopyRefusedError as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(f"{folder}: {error.strerror}")
                break  # other vaults do not help
            else:
                options.report_bytes(stored.size)
                return task, stored, source.config.name, ""
        return task, None, "", "; ".join(problems)

    for task, stored, source, problem in map_in_order(options.jobs, stop, copy, tasks):
        if stored is not None:
            message = f"from {source}"
            batch.add(stored, item_outcome(target.config.name, task.item, "ok", message))
        elif problem:
            yield item_outcome(target.config.name, task.item, "error", problem)
        yield from batch.commit_if_due()
