"""Download tasks and their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, field

from neuromirror.model import default_piece_size
from neuromirror.transfer.content_checks import ContentCheck, EquivalentKeyCheck, check_for

if TYPE_CHECKING:
    from neuromirror.transfer.block_digest_recorder import BlockDigestsRecorder


class FetchTask(Struct, frozen=True):
    """A content to download.

    Attributes
    ----------
    key
        Annex key.
    size
        Size in bytes, None if unknown.
    urls
        URLs, in the order in which to try them.
    local_urls
        Those of the URLs that are files of this machine (``file:``). No other file is read.
    equivalent_keys
        Keys with checksums that git-annex recorded for a VURL key.
    digests
        Records the block digests of a content of several pieces; None not to.
    """

    key: str
    size: int | None
    urls: Sequence[str]
    local_urls: frozenset[str] = frozenset()
    equivalent_keys: Sequence[str] = ()
    digests: BlockDigestsRecorder | None = None

    def check(self) -> ContentCheck:
        """Return a new check for the content; the key's backend must be supported."""
        found = check_for(self.key, self.equivalent_keys)
        assert found is not None
        size = self.size
        if self.digests is not None and size is not None and size > default_piece_size(size):
            found.digester = self.digests.start(self.key, size)
        return found


class FetchResult(Struct):
    """The result of a download task.

    Attributes
    ----------
    task
        The task.
    check
        The check that the content passed; None if the download failed.
    url
        The URL it was downloaded from.
    errors
        Why each URL failed.
    refused_hosts
        Hosts that were refused because of their addresses.
    needs_credentials
        Whether a service refused a block, which the special remote may have credentials for.
    store_error
        Why the content could not be stored; None if it could not be downloaded.
    hosts
        Host of each error that concerns a whole host; None for errors that concern one file.
    """

    task: FetchTask
    check: ContentCheck | None = None
    url: str | None = None
    errors: list[str] = field(default_factory=list)
    refused_hosts: list[str] = field(default_factory=list)
    needs_credentials: bool = False
    store_error: Exception | None = None
    hosts: set[str | None] = field(default_factory=set)

    @property
    def host(self) -> str | None:
        """The hosts at fault if all errors concern a whole host, else None."""
        named = sorted(one for one in self.hosts if one is not None)
        return ", ".join(named) if named and None not in self.hosts else None

    @property
    def equivalent_key(self) -> str | None:
        """The key to record for a VURL key."""
        return self.check.equivalent_key() if isinstance(self.check, EquivalentKeyCheck) else None
