"""Fixtures of the DataLad commands' tests."""
