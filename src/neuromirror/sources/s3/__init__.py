"""Buckets of an S3 service: every prefix at a given depth is a dataset."""

from neuromirror.sources.s3.options import DatasetOverride, S3Options
from neuromirror.sources.s3.source import S3Source

__all__ = ["DatasetOverride", "S3Options", "S3Source"]
