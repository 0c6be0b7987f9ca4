"""The places of the crawl's and the lab's tests, for the commands of DataLad."""

from __future__ import annotations
