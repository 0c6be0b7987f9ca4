"""BOSS, the service of BossDB: every channel is a dataset, cut out block by block."""

from neuromirror.sources.boss.client import WrongTokenError
from neuromirror.sources.boss.options import BossOptions
from neuromirror.sources.boss.source import BossChannelNotPublicError, BossSource

__all__ = ["BossChannelNotPublicError", "BossOptions", "BossSource", "WrongTokenError"]
