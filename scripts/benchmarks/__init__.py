"""Measures neuromirror beside its peers; see ``scripts/bench --help``."""
