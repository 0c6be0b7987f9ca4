"""Compare neuromirror with other programs; see ``scripts/bench --help``."""
