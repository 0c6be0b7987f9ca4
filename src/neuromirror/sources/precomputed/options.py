"""What a mirror file may say about layers in a bucket."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neuromirror.sources.s3.options import BucketOptions


class PrecomputedOptions(BucketOptions):
    """The ``[options]`` of a mirror of precomputed layers; all requests are anonymous.

    ``depth`` is how many folders below ``prefix`` a layer lies at most; 0 says that ``prefix`` is
    the one layer. ``include`` and ``exclude`` hold shell patterns of prefixes. ``encodings`` says
    how it is learnt in which encoding objects are stored: by a sample of each folder (``probe``),
    or from each of them (``each``).
    """

    depth: int = Field(default=4, ge=0, le=8)
    include: tuple[str, ...] = ()
    encodings: Literal["probe", "each"] = "probe"
