"""Fixtures of the DataLad commands' tests."""

from __future__ import annotations
