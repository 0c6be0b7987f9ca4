"""Fixtures of the volumes' tests."""

from support.annex_with_boss import annex, annex_template, boss, remote
from support.volume_mirror import boss_mirror, clone, clone_template, shared_boss_mirror

__all__ = [
    "annex",
    "annex_template",
    "boss",
    "boss_mirror",
    "clone",
    "clone_template",
    "remote",
    "shared_boss_mirror",
]
