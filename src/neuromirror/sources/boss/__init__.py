"""A source for BOSS, the service of BossDB: each channel is a dataset."""

from neuromirror.sources.boss.client import WrongTokenError
from neuromirror.sources.boss.source import BossChannelNotPublicError, BossOptions, BossSource

__all__ = ["BossChannelNotPublicError", "BossOptions", "BossSource", "WrongTokenError"]
