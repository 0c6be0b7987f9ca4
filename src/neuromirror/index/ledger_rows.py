"""Rows of the ledger."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

CheckMethod = Literal["full-read", "s3-sha256", "s3-etag", "size", "head", "listing"]
"""How a copy was checked last.

``full-read``: all bytes were hashed here. ``s3-…``: S3 computed this checksum of the bytes that it
stored, and it equals that of the bytes. ``size``: only the size was compared, because the key has
no checksum. ``head`` and ``listing``: the vault states the size.
"""

HASH_METHODS: Final = ("full-read", "size", "s3-sha256", "s3-etag")
"""Checks that read all bytes; ``size`` is that of a key without a checksum."""

CopyState = Literal["present", "damaged", "missing"]
"""``damaged``: the bytes are wrong. ``missing``: the vault does not have it any more."""

EventKind = Literal["kept", "missing", "damaged", "repaired", "removed", "shortage", "drill"]


class Stored(Struct, frozen=True):
    """A content that a vault has, verified.

    Attributes
    ----------
    key
        Its annex key.
    size
        Its size in bytes.
    method
        How it was verified.
    """

    key: str
    size: int
    method: CheckMethod


class LedgerCopy(Struct, frozen=True):
    """A copy: one content in one vault.

    Attributes
    ----------
    vault
        The UUID of the vault.
    key
        The annex key.
    size
        Size in bytes.
    kept, checked
        When it was stored and when it was checked last, in POSIX seconds.
    hashed
        When all its bytes were hashed last, in POSIX seconds; 0 for never.
    method
        How it was checked last.
    state
        Whether the vault has it; only ``present`` copies count.
    """

    vault: str
    key: str
    size: int
    kept: float
    checked: float
    hashed: float
    method: CheckMethod
    state: CopyState


class LedgerVault(Struct, frozen=True):
    """A vault and the totals of its copies.

    Attributes
    ----------
    uuid, name, kind
        The vault.
    checked
        When all its keys were listed last, in POSIX seconds; None for never.
    copies, bytes
        Number and size of its present copies.
    damaged, missing
        Number of copies that were found damaged or missing and are not repaired.
    oldest_check
        When the present copy that was not checked for the longest time was checked; None without
        copies.
    oldest_read
        When all bytes of the present copy that was not hashed for the longest time were hashed.
    """

    uuid: str
    name: str
    kind: str
    checked: float | None
    copies: int
    bytes: int
    damaged: int
    missing: int
    oldest_check: float | None
    oldest_read: float | None


class Wish(Struct, frozen=True):
    """Content to keep in a vault.

    Attributes
    ----------
    id
        Its number; 0 for one that is not recorded.
    kind
        ``version``, ``lock``, or the kind of a policy.
    what
        The name of the version, the path of the lock file, or the name of the policy.
    vault
        The UUID of the vault.
    globs
        Globs that select files; empty for all.
    since
        When it was recorded first, in POSIX seconds.
    """

    kind: str
    what: str
    vault: str
    globs: tuple[str, ...] = ()
    since: float = 0.0
    id: int = 0


class LedgerEvent(Struct, frozen=True):
    """Something worth recording about copies.

    Attributes
    ----------
    time
        POSIX seconds.
    kind
        The kind.
    message
        The message.
    vault, key, dataset
        Name of the vault, annex key and name of the dataset that it concerns; None if none.
    """

    time: float
    kind: EventKind
    message: str
    vault: str | None = None
    key: str | None = None
    dataset: str | None = None
