"""Places asked for what they have, or for the bytes themselves, several at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from neuromirror.model import Digest
from neuromirror.transfer.download_verifier import DownloadVerifier
from neuromirror.transfer.findings import Finding
from neuromirror.transfer.url_prober import Prober
from neuromirror.transfer.url_sessions import UrlSessions
from neuromirror.transfer.verify_items import Item
from neuromirror.transfer.work_tree import map_in_order


def check_urls(
    items: Iterable[Item],
    sessions: UrlSessions,
    claims: Callable[[str], Iterable[Digest]],
    *,
    jobs: int,
    full: bool,
) -> Iterator[Finding]:
    """Yields what there is to say of each item, in order.

    Of a file, what each of its places says, or with ``full`` what it gives. ``claims`` is asked in
    this thread for what more is known of a key's bytes.
    """
    stop = threading.Event()
    prober, fetcher = Prober(sessions), DownloadVerifier(sessions, stop)

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
