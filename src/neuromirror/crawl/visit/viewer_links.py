"""Links to viewers, as upstream lists them; they may change while the data stays the same."""

from __future__ import annotations

from neuromirror.crawl.recorder import Recorder
from neuromirror.model import DatasetRef, LinksFound, current_timestamp

ViewerLinks = tuple[tuple[str, str], ...]


def record_viewer_links(recorder: Recorder, dataset: DatasetRef, links: ViewerLinks) -> None:
    """Record a dataset's links if they changed."""
    found = sorted(links)
    if recorder.ask(lambda index: index.links(dataset.name)) != found:
        entry = LinksFound(
            mirror=dataset.mirror,
            local_id=dataset.local_id,
            source_uri=dataset.source_uri,
            links=[list(one) for one in found],
            at=current_timestamp(),
        )
        recorder.record(entry)
