"""What a mirror file may say about an ndstore."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from neuromirror.sources.volumes import VolumeOptions

_SAME = "/sd"
_USUAL = "/ca"


class NdstoreOptions(VolumeOptions):
    """The ``[options]`` of a mirror of an ndstore; what is not said here is as in its base.

    ``api`` ends in ``/nd/ca`` or ``/nd/sd``, two names of the same thing, of which the first is
    used. ``tokens`` are the projects that are looked at, in place of all that are public;
    ``restricted`` says what becomes of those that are not: they are passed over (``skip``), or
    mirrored like all others into the same store (``mirror``). ``unit`` is that of the voxels'
    sizes, of which the service says none.
    """

    tokens: tuple[Annotated[str, Field(pattern=r"^[^/]{1,255}$")], ...] = ()
    restricted: Literal["skip", "mirror"] = "skip"
    unit: Literal["nanometer", "micrometer", "millimeter"] = "nanometer"

    @field_validator("api")
    @classmethod
    def _one_name(cls, api: str) -> str:
        return api.removesuffix(_SAME) + _USUAL if api.endswith(_SAME) else api

    @property
    def host(self) -> str:
        """The host as it stands in an address, with its port if it has one."""
        return urlsplit(self.api).netloc

    @property
    def prefix(self) -> str:
        """What stands between host and token, without slashes at its ends."""
        return urlsplit(self.api).path.strip("/")

    @property
    def is_secure(self) -> bool:
        """Whether the host is asked over https."""
        return urlsplit(self.api).scheme == "https"

    def may_include(self, token: str) -> bool:
        """Whether a channel of a project could be wanted, before its channels are known.

        ``token`` is as it stands in a local id.
        """
        if any(one.endswith("*") and fnmatchcase(f"{token}/", one) for one in self.exclude):
            return False
        return not self.include or any(_may_match(token, one) for one in self.include)


def _may_match(token: str, pattern: str) -> bool:
    """False where the pattern matches nothing that is a token, a slash and a channel's name."""
    before, slash, rest = pattern.partition("/")
    if not slash or "/" in rest or "[" in pattern:
        return True
    return fnmatchcase(token, before)
