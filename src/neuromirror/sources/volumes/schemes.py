"""The schemes of block URLs. Imports nothing: git-annex starts the special remote several times."""

from __future__ import annotations

from typing import Final

SCHEMES: Final = ("boss", "ndstore")
