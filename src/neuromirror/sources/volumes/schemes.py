"""The schemes of block URLs, without imports: git-annex starts the special remote often."""

from __future__ import annotations

from typing import Final

SCHEMES: Final = ("boss", "ndstore")
