"""The special remote of git-annex that makes the blocks of volumes into files."""

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
"""The same in every dataset, since what it can get depends on the URL alone."""
