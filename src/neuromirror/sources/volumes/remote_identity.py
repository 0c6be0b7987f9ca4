"""The git-annex special remote that fetches the blocks of volumes as files."""

from __future__ import annotations

import uuid
from typing import Final

from neuromirror.model import SpecialRemote

_PROGRAM: Final = "git-annex-remote-neuromirror"

VOLUME_REMOTE: Final = SpecialRemote(
    name="neuromirror",
    externaltype="neuromirror",
    uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, _PROGRAM)),
)
"""The special remote; it is the same in every dataset, because content depends on the URL only."""
