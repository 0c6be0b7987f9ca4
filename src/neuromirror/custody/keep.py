"""Copy contents into a vault, verified on the way in.

Contents that the vault has are not downloaded: those in the ledger are looked up, others are read
and adopted. The rest is copied within S3 where that is possible, else downloaded; what upstream
does not provide is copied from other vaults. A copy is recorded only after the vault confirmed it,
so that a run that is killed can be repeated.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.annex import key_file_name
from neuromirror.config.vault_files import VaultConfig
from neuromirror.custody.copies import (
    BadSectorError,
    CopyBatch,
    KeepContents,
    KeepItem,
    KeepOptions,
    KeepOutcome,
    UncheckedCopyError,
    copies_of,
    find_mismatch,
    is_proof,
    item_outcome,
    look_up_copies,
    publish_copies,
    read_method,
)
from neuromirror.index.ledger import CheckMethod, Ledger, Stored, Wish
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.store import Store
from neuromirror.store.durable_files import make_folder
from neuromirror.transfer.annex_branch import AnnexSettings
from neuromirror.transfer.annex_objects import (
    AnnexObjectStore,
    InsufficientSpaceError,
    TransferBusyError,
)
from neuromirror.transfer.content_bodies import FetchResult, FetchTask, check_for
from neuromirror.transfer.fetcher import MAX_IN_MEMORY, DownloadPool
from neuromirror.transfer.outcomes import displayed_url
from neuromirror.transfer.url_sessions import RateLimit, host_tokens, no_token
from neuromirror.transfer.work_tree import map_in_order
from neuromirror.vault.directory import DISK_RESERVE, DirectoryVault
from neuromirror.vault.object_files import PARTIAL_PREFIX, remove_old_partials
from neuromirror.vault.opening import open_vault
from neuromirror.vault.protocol import (
    CopyMissingError,
    CopyRefusedError,
    Presence,
    Vault,
    VaultError,
)

_COPIES_PER_JOB: Final = 4
"""Copies that the vault makes itself at a time, per job: they use no bandwidth of this machine."""

_DEFAULTS: Final = KeepOptions()
_S3: Final = "s3://"
_NEEDS_CREDENTIALS: Final = (
    "it can be read with credentials only, and others may read the vault; set 'private = true' in "
    "the vault's file if nobody else can, or keep a version of your public store"
)
_SAMPLE: Final = 32
"""Recorded copies that are looked up if looking up all of them takes a request each."""
_MAX_QUEUED: Final = 2000
_BUSY_SECONDS: Final = 30.0
"""Seconds to wait for another process that stores the same content."""
_BUSY_POLL: Final = 0.2
_BLOCK: Final = 1 << 20


def keep(
    wish: Wish,
    contents: KeepContents,
    vault: Vault,
    others: Sequence[VaultConfig],
    store: Store | None,
    ledger: Ledger,
    options: KeepOptions,
) -> Generator[KeepOutcome, None, None]:
    """Copy contents into a vault, record that they are to be kept, and publish where they are.

    Copies that were made before an error are published, too.

    Raises
    ------
    VaultError
        The vault cannot be used.
    """
    ledger.add_vault(vault.uuid, vault.config.name, vault.config.settings.kind)
    sizes = ((key, one.size) for key, one in contents.items.items())
    # what cannot be read now is still to be kept
    ledger.wishes.put(wish, sizes, extend=bool(contents.findings))
    kept: set[str] = set()
    try:
        for outcome in keep_contents(contents.items, vault, others, store, ledger, options):
            if not outcome.failed and outcome.key is not None:
                kept.add(outcome.key)
            yield outcome
    finally:
        if store is not None and kept:
            publish_copies(store, contents, vault, kept)


def keep_contents(
    items: Mapping[str, KeepItem],
    target: Vault,
    others: Sequence[VaultConfig],
    store: Store | None,
    ledger: Ledger,
    options: KeepOptions,
) -> Iterator[KeepOutcome]:
    """Copy contents into a vault: from upstream, and what upstream does not provide from others.

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
        other
        for other in others
        if other.name != target.config.name and may_copy(other, target.config, options)
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
    """Return whether the contents of a run may be copied from a vault to another."""
    return target.settings.private or options.with_credentials or not source.settings.private


def _add_reasons(outcome: KeepOutcome, *reasons: str) -> KeepOutcome:
    """Add to a message why a content could not be copied from other vaults either."""
    if not reasons:
        return outcome
    message = "; ".join((outcome.message or "from upstream", *reasons))
    return replace(outcome, message=message, host=None)


def run_keep(
    items: Iterable[KeepItem], vault: Vault, ledger: Ledger, options: KeepOptions = _DEFAULTS
) -> Iterator[KeepOutcome]:
    """Copy contents into a vault.

    Raises
    ------
    VaultError
        The vault cannot be written.
    """
    vault.check_access(write=True)
    ledger.add_vault(vault.uuid, vault.config.name, vault.config.settings.kind)
    run = _KeepRun({item.key: item for item in items}, vault, ledger, options)
    with closing(run.outcomes()) as outcomes:
        yield from outcomes


class _KeepRun:
    """One run; see :func:`run_keep`. A content is in ``_left`` until its outcome is yielded."""

    def __init__(
        self, items: dict[str, KeepItem], vault: Vault, ledger: Ledger, options: KeepOptions
    ) -> None:
        self._left = items
        self._vault = vault
        self._name = vault.config.name
        self._ledger = ledger
        self._options = options
        self._is_anonymous = not (options.with_credentials or vault.config.settings.private)
        self._stop = threading.Event()
        self._busy: set[str] = set()
        self._batch = CopyBatch(vault, ledger)

    def outcomes(self) -> Generator[KeepOutcome, None, None]:
        failure: VaultError | None = None
        try:
            with closing(self._batch.commit_after(self._steps())) as outcomes:
                for outcome in outcomes:
                    self._left.pop(outcome.key or "", None)
                    yield outcome
        except VaultError as error:
            failure = error
        yield from self._await_others()
        if self._left:
            yield self._rest(failure)

    def _steps(self) -> Generator[KeepOutcome, None, None]:
        try:
            for step in (self._look_up_recorded, self._adopt, self._copy_at_vault, self._download):
                if self._left and not self._options.is_over:
                    yield from step()
                    yield from self._batch.commit()  # the next step is for what is left
        finally:
            self._stop.set()

    def _look_up_recorded(self) -> Iterator[KeepOutcome]:
        """Yield outcomes for recorded copies that the vault still has."""
        lacking = set(self._ledger.missing(self._vault.uuid, list(self._left)))
        recorded = [key for key in self._left if key not in lacking]
        sample = recorded
        if not self._vault.is_checked_at_once:
            sample = random.sample(recorded, min(_SAMPLE, len(recorded)))
        lost = self._lost(sample)
        if lost and len(sample) < len(recorded):
            lost = self._lost(recorded)
        if lost:
            missing = [key for key, one in lost.items() if one.size is None]
            damaged = [key for key, one in lost.items() if one.size is not None]
            self._ledger.mark(self._vault.uuid, missing, "missing", "listing")
            self._ledger.mark(self._vault.uuid, damaged, "damaged", "listing")
        for key in recorded:
            if key not in lost:
                yield item_outcome(self._name, self._left[key], "notneeded", "in the vault")

    def _lost(self, keys: Sequence[str]) -> dict[str, Presence]:
        """Return what the vault states about recorded copies that it lacks or that are damaged."""
        return {
            one.key: one
            for one in self._presence(keys)
            if not one.agrees_with(self._left[one.key].size)
        }

    def _presence(self, keys: Sequence[str]) -> Iterator[Presence]:
        """Yield what the vault states; a copy that it refuses to describe counts as listed."""
        for key, one in look_up_copies(self._vault, keys):
            if isinstance(one, CopyRefusedError):
                yield Presence(key, self._left[key].size or 0, "listing")
            else:
                yield one

    def _adopt(self) -> Iterator[KeepOutcome]:
        """Yield outcomes for contents that the vault has and that are not recorded as present.

        Copies with wrong bytes are removed: a vault may store nothing under a key that it has.
        """
        keys = list(self._left)
        recorded = copies_of(self._vault, self._ledger, keys)
        damaged = {key for key, one in recorded.items() if one.state == "damaged"}

        def check(one: Presence) -> tuple[Presence, CheckMethod | None, str]:
            try:
                return *self._check_copy(one, one.key in damaged), ""
            except (CopyRefusedError, UncheckedCopyError) as error:
                return one, None, str(error)

        present = (one for one in self._presence(keys) if one.size is not None)
        for one, method, problem in map_in_order(self._options.jobs, self._stop, check, present):
            if method is not None:
                self._confirm(Stored(one.key, one.size or 0, method), "was in the vault")
            elif problem:
                # a download would not replace it, and be recorded nevertheless
                why = f"the copy in the vault could not be checked: {problem}; run keep again"
                outcome = item_outcome(self._name, self._left[one.key], "error", why)
                yield replace(outcome, host=self._name)
            yield from self._batch.commit_if_due()
            if self._options.is_over:
                return

    def _check_copy(self, one: Presence, is_damaged: bool) -> tuple[Presence, CheckMethod | None]:
        """Return how a copy was verified; None if the vault does not have the right bytes now."""
        if one.method == "listing" and not self._vault.is_checked_at_once:
            (one,) = self._vault.presence([one.key])
            if one.size is None:
                return one, None
        if is_proof(one) and not is_damaged:
            return one, "s3-sha256"
        if check_for(one.key) is None:
            return one, None
        try:
            if find_mismatch(self._vault, one.key, self._stop) is None:
                return one, read_method(one.key)
        except CopyMissingError:
            return one, None
        except BadSectorError:
            if not is_damaged:
                raise
        self._vault.remove(one.key)
        return one, None

    def _copy_at_vault(self) -> Iterator[KeepOutcome]:
        """Yield outcomes for contents that the vault itself copies from where they are."""

        def copy(item: KeepItem) -> tuple[Stored | None, str]:
            for url in item.urls:
                if self._options.is_over:
                    break
                if self._is_anonymous and url.startswith(_S3):
                    continue
                if (stored := self._vault.copy_from(item.key, url)) is not None:
                    return stored, url
            return None, ""

        items = [one for one in self._left.values() if any(map(self._vault.can_copy, one.urls))]
        jobs = _COPIES_PER_JOB * self._options.jobs
        for stored, url in map_in_order(jobs, self._stop, copy, items):
            if stored is not None:
                self._confirm(stored, "copied within the service", url)
                self._options.report_bytes(stored.size)
            yield from self._batch.commit_if_due()

    def _download(self) -> Iterator[KeepOutcome]:
        options = self._options
        settings = AnnexSettings.of_user()
        rate = None if options.bytes_per_second is None else RateLimit(options.bytes_per_second)
        with ExitStack() as stack:
            uploads = self._ledger.path.parent / "uploads"
            sink = stack.enter_context(open_sink(self._vault, uploads))
            pool = DownloadPool(
                *(settings, sink, options.jobs, lambda key: None),
                allowed_hosts=options.allowed_hosts,
                host_token=no_token if self._is_anonymous else host_tokens(settings),
                rate=rate,
                is_anonymous=self._is_anonymous,
            )
            try:
                yield from self._feed(pool, sink)
            finally:
                for found in pool.stop():
                    if found.check is not None:
                        self._confirm_fetched(found, sink)

    def _feed(self, pool: DownloadPool, sink: AnnexObjectStore) -> Iterator[KeepOutcome]:
        waiting = deque(self._left.values())
        running = 0
        while (waiting and not self._options.is_over) or running:
            while waiting and running < _MAX_QUEUED and not self._options.is_over:
                item = waiting.popleft()
                if self._is_anonymous:
                    urls = tuple(url for url in item.urls if not url.startswith(_S3))
                    reason = None if urls or not item.urls else _NEEDS_CREDENTIALS
                    item = item._replace(urls=urls)
                else:
                    reason = None
                reason = reason or _reason_not_to_fetch(item)
                if reason is not None:
                    yield item_outcome(self._name, item, "impossible", reason)
                    continue
                pool.put(FetchTask(item.key, item.size, item.urls))
                running += 1
            if not running:
                continue
            for found in pool.take():
                if isinstance(found, FetchResult):
                    running -= 1
                    yield from self._finish_fetch(found, sink)
                else:
                    self._options.report_bytes(found[1])
            yield from self._batch.commit_if_due()
            if self._options.is_over and running > self._options.jobs:
                return

    def _finish_fetch(self, found: FetchResult, sink: AnnexObjectStore) -> Iterator[KeepOutcome]:
        key = found.task.key
        error = found.store_error
        if found.check is not None:
            self._confirm_fetched(found, sink)
            return
        if isinstance(error, TransferBusyError):
            self._busy.add(key)
            return
        if isinstance(error, VaultError):
            raise error
        if isinstance(error, OSError) and not isinstance(error, InsufficientSpaceError):
            self._vault.check_access(write=True)
        is_of_vault = error is not None and not isinstance(error, CopyRefusedError)
        host = self._name if is_of_vault else found.host
        item = self._left[key]
        yield replace(item_outcome(self._name, item, "error", "; ".join(found.errors)), host=host)

    def _confirm_fetched(self, found: FetchResult, sink: AnnexObjectStore) -> None:
        assert found.check is not None
        key, size = found.task.key, found.check.bytes_seen
        stored = sink.stored.pop(key, None) if isinstance(sink, UploadSink) else None
        url = None if found.url is None else displayed_url(found.url)
        if size <= MAX_IN_MEMORY:
            self._options.report_bytes(size)
        self._confirm(stored or Stored(key, size, read_method(key)), "", url)

    def _await_others(self) -> Iterator[KeepOutcome]:
        """Yield outcomes for contents that another process is storing."""
        until = time.monotonic() + _BUSY_SECONDS
        waiting = [key for key in self._busy if key in self._left]
        while waiting:
            lacking = set(self._ledger.missing(self._vault.uuid, waiting))
            for key in waiting:
                if key not in lacking:
                    yield item_outcome(
                        self._name, self._left.pop(key), "notneeded", "kept by another process"
                    )
            waiting = [key for key in waiting if key in lacking]
            if waiting and (time.monotonic() >= until or self._options.is_over):
                break
            if waiting:
                time.sleep(_BUSY_POLL)
        for key in waiting:
            why = "another process is storing it; run the command again when it has finished"
            yield item_outcome(self._name, self._left.pop(key), "error", why)

    def _confirm(self, stored: Stored, message: str, url: str | None = None) -> None:
        outcome = item_outcome(self._name, self._left[stored.key], "ok", message)
        self._batch.add(stored, replace(outcome, url=url))

    def _rest(self, failure: VaultError | None) -> KeepOutcome:
        """Return the outcome for all contents that were not attempted."""
        count = len(self._left)
        size = sum(one.size or 0 for one in self._left.values())
        name = self._name
        why = "the run was stopped" if failure is None else str(failure)
        return KeepOutcome(
            *("keep", "error" if failure else "impossible", "."),
            f"{why}; {count} contents were not copied: run the command again",
            size=size,
            host=name,
            vault=name,
        )


def _reason_not_to_fetch(item: KeepItem) -> str | None:
    if not item.urls:
        return "no URL is known for its content"
    if check_for(item.key) is None:
        return "the kind of its key is not supported"
    return None


class UploadSink(AnnexObjectStore):
    """Uploads verified content to a vault; what is too large for memory has a file first."""

    def __init__(self, vault: Vault, folder: Path) -> None:
        super().__init__(_UploadFolder(folder))
        self._vault = vault
        self._folder = folder
        self.stored: dict[str, Stored] = {}

    def put(self, key: str, content: memoryview) -> None:
        """Upload verified content that is completely in memory."""
        self.stored[key] = self._vault.store_bytes(key, content)

    def finish_partial(self, key: str, file: int) -> None:
        """Upload content that is complete and verified, and delete its file."""
        path = self._folder / "tmp" / os.fsdecode(key_file_name(key))
        self.stored[key] = self._vault.store(key, path)
        self.discard_partial(key)


class _UploadFolder(Struct):
    annex_dir: Path
    disk_reserve: int = DISK_RESERVE

    def object_paths(self, key: str) -> Sequence[bytes]:
        return ()

    def find_object(self, key: str) -> bytes | None:
        return None


@contextmanager
def open_sink(vault: Vault, uploads: Path) -> Iterator[AnnexObjectStore]:
    """Provide the sink for downloads into a vault."""
    if isinstance(vault, DirectoryVault):
        with AnnexObjectStore(vault, bypass_page_cache=True) as store:
            yield store
        return
    folder = uploads / vault.uuid
    make_folder(folder, durable=False)
    with UploadSink(vault, folder) as sink:
        yield sink


class DamagedCopyError(NeuromirrorError):
    """The bytes of a copy are not those of its key, or the vault does not have it."""


class CopyTask(NamedTuple):
    """A content and the vaults that have it."""

    item: KeepItem
    sources: Sequence[Vault]


def copy_content(
    key: str, source: Vault, target: Vault, folder: Path, pace: Callable[[int], None]
) -> Stored:
    """Copy a content between vaults; nothing is stored unless its bytes are right.

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


def copy_between(
    tasks: Iterable[CopyTask], target: Vault, ledger: Ledger, options: KeepOptions
) -> Generator[KeepOutcome, None, None]:
    """Copy contents that other vaults have into a vault.

    Raises
    ------
    VaultError
        The target cannot be used.
    """
    batch = CopyBatch(target, ledger)
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
                ledger.mark(source.uuid, [key], "damaged", "full-read")
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

    def steps() -> Generator[KeepOutcome, None, None]:
        for task, stored, source, problem in map_in_order(options.jobs, stop, copy, tasks):
            if stored is not None:
                message = f"from {source}"
                batch.add(stored, item_outcome(target.config.name, task.item, "ok", message))
            elif problem:
                yield item_outcome(target.config.name, task.item, "error", problem)
            yield from batch.commit_if_due()

    yield from batch.commit_after(steps())
