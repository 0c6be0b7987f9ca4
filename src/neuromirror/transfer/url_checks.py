"""Probe or download the URLs of many files concurrently."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from neuromirror.model import Digest
from neuromirror.transfer.download_verifier import DownloadVerifier
from neuromirror.transfer.findings import Finding
from neuromirror.transfer.url_claims import ClaimLookup, no_claims
from neuromirror.transfer.url_prober import Prober
from neuromirror.transfer.url_sessions import UrlSessions
from neuromirror.transfer.verify_items import Item
from neuromirror.transfer.work_tree import map_in_order

if TYPE_CHECKING:
    from neuromirror.transfer.block_digest_recorder import BlockDigestsRecorder


def check_urls(
    items: Iterable[Item],
    sessions: UrlSessions,
    claims: ClaimLookup = no_claims,
    *,
    jobs: int,
    full: bool,
    digests: BlockDigestsRecorder | None = None,
) -> Iterator[Finding]:
    """Yield findings for items, in order.

    Parameters
    ----------
    items
        Findings, which are passed on, and files whose URLs are to be checked.
    sessions
        Sessions and circuit breaker for the requests.
    claims
        Returns further checksums of a key's content; called in this thread.
    jobs
        Number of threads.
    full
        Whether to download and hash the files instead of probing their URLs.
    digests
        Records block digests of downloaded files that lack them; None not to.
    """
    stop = threading.Event()
    prober, fetcher = Prober(sessions), DownloadVerifier(sessions, stop, digests)

    def check(task: tuple[Item, Sequence[Digest]]) -> Sequence[Finding]:
        item, digests = task
        if isinstance(item, Finding):
            return (item,)
        return fetcher.verify(item) if full else prober.probe(item, digests)

    tasks = (
        (item, () if full or isinstance(item, Finding) else tuple(claims(item.key)))
        for item in items
    )
    for some in map_in_order(jobs, stop, check, tasks):
        yield from some
