"""Fixtures of the volumes' tests."""

from volume_boss import annex, boss, made_annex

__all__ = ["annex", "boss", "made_annex"]
