"""The volumes are the same everywhere."""

from __future__ import annotations

import hashlib

import pytest

from neuromirror_demo import volumes

MADE = {
    "tissue": ("uint8", (70, 260, 300), "1875fc11f3cba80a"),
    "cells": ("uint64", (70, 260, 300), "492542db2ddda83c"),
    "activity": ("uint16", (3, 36, 130, 150), "d46dc1de12d6ec32"),
}


@pytest.mark.parametrize("name", MADE)
def test_every_machine_makes_the_same_bytes(name: str) -> None:
    made = getattr(volumes, name)()
    digest = hashlib.sha256(made.astype(made.dtype.newbyteorder("<")).tobytes()).hexdigest()
    assert (made.dtype, made.shape, digest[:16]) == MADE[name]
