"""Letting a held listing through."""

from __future__ import annotations

import getpass

from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.times import now
from neuromirror.model import ConfigurationError, HoldReleased


def release(recorder: Recorder, hold: str) -> str:
    """Releases an open hold by its id (or a prefix of it); gives the dataset's name.

    The next sync accepts just the listing that was held. Raises ConfigurationError for an id
    that names no open hold, or several.
    """
    found = recorder.ask(lambda index: list(index.open_holds()))
    matching = [one for one in found if one.hold.startswith(hold)]
    if len(matching) != 1:
        known = ", ".join(one.hold for one in found) or "none"
        raise ConfigurationError(
            f"'{hold}' names {len(matching) or 'no'} open hold{'s' * (len(matching) > 1)}; "
            f"open are: {known}"
        )
    (one,) = matching
    recorder.record(HoldReleased(one.hold, getpass.getuser(), now()))
    return one.dataset
