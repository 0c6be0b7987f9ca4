"""A source for S3 buckets: each prefix at a given depth is a dataset."""

from neuromirror.sources.s3.options import S3Options
from neuromirror.sources.s3.source import S3Source

__all__ = ["S3Options", "S3Source"]
