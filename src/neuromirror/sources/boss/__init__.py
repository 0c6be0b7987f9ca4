"""BOSS, the service of BossDB: every channel is a dataset, cut out block by block."""

from neuromirror.sources.boss.client import WrongToken
from neuromirror.sources.boss.options import BossOptions
from neuromirror.sources.boss.source import BossSource, NotPublic

__all__ = ["BossOptions", "BossSource", "NotPublic", "WrongToken"]
