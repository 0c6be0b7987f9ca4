"""Fixtures of the volumes' tests."""

from support.annex_with_boss import annex, annex_template, boss, short_waits
from support.volume_mirror import boss_mirror, clone, clone_template, shared_boss_mirror

__all__ = [
    "annex",
    "annex_template",
    "boss",
    "boss_mirror",
    "clone",
    "clone_template",
    "shared_boss_mirror",
    "short_waits",
]
