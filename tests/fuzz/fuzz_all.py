"""All targets: importing the modules registers them."""

from importlib import import_module
from pathlib import Path

from fuzz_core import TARGETS

__all__ = ["TARGETS"]

for module in sorted(Path(__file__).parent.glob("fuzz_*.py")):
    if module.stem not in ("fuzz_all", "fuzz_mutate"):
        import_module(module.stem)
