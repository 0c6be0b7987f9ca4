"""What a lab does with a mirrored version: mints it again, to see that the same comes out."""

from neuromirror.lab.again import NotMinted
from neuromirror.lab.differences import Differences, Ids, Paths
from neuromirror.lab.reproduce import PartReproduction, Progress, Reproduction, reproduce

__all__ = [
    "Differences",
    "Ids",
    "NotMinted",
    "PartReproduction",
    "Paths",
    "Progress",
    "Reproduction",
    "reproduce",
]
