"""Fixtures of the volumes' tests."""

from volume_boss import annex, boss, made_annex
from volume_store import clone, held, made_clone, mirrored

__all__ = ["annex", "boss", "clone", "held", "made_annex", "made_clone", "mirrored"]
