"""The ``[options]`` of a mirror of precomputed layers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neuromirror.sources.s3.options import BucketOptions


class PrecomputedOptions(BucketOptions):
    """The ``[options]`` of a mirror of precomputed layers.

    Attributes
    ----------
    depth
        Maximum number of levels between ``prefix`` and a layer; 0 if ``prefix`` is the only layer.
    include
        Shell patterns of the prefixes to mirror; by default all.
    encodings
        Whether a sample of each folder is requested to determine encodings (``probe``), or every
        object (``each``).
    """

    depth: int = Field(default=4, ge=0, le=8)
    include: tuple[str, ...] = ()
    encodings: Literal["probe", "each"] = "probe"
