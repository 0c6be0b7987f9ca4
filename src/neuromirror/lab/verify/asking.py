"""Places asked for what they have, or for the bytes themselves, several at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from neuromirror.lab.verify.fetching import Fetcher
from neuromirror.lab.verify.findings import Finding
from neuromirror.lab.verify.looking import in_order
from neuromirror.lab.verify.places import Prober
from neuromirror.lab.verify.sessions import Sessions, allowed_addresses, setting_command
from neuromirror.lab.verify.walking import Item
from neuromirror.model import Digest


def asked(
    items: Iterable[Item],
    sessions: Sessions,
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
    prober, fetcher = Prober(sessions), Fetcher(sessions, stop)

    def look(task: tuple[Item, Sequence[Digest]]) -> Sequence[Finding]:
        item, digests = task
        if isinstance(item, Finding):
            return (item,)
        return fetcher.fetch(item) if full else prober.probe(item, digests)

    tasks = (
        (item, () if full or isinstance(item, Finding) else tuple(claims(item.key)))
        for item in items
    )
    for some in in_order(jobs, stop, look, tasks):
        yield from some


__all__ = ["Sessions", "allowed_addresses", "asked", "setting_command"]
