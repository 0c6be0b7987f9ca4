"""The ``[options]`` of a mirror of an ndstore."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field, field_validator

from neuromirror.sources.volumes.options import VolumeOptions

_SAME = "/sd"
_USUAL = "/ca"


class NdstoreOptions(VolumeOptions):
    """The ``[options]`` of a mirror of an ndstore.

    Attributes
    ----------
    api
        The service's base URL, which ends with ``/nd/ca`` or its synonym ``/nd/sd``.
    tokens
        The projects to mirror; by default all public ones.
    restricted
        What to do with projects that require a token: ``skip``, or ``mirror`` them like the others
        into the same store.
    unit
        The unit of voxel sizes, which the service does not state.
    """

    tokens: tuple[Annotated[str, Field(pattern=r"^[^/]{1,255}$")], ...] = ()
    restricted: Literal["skip", "mirror"] = "skip"
    unit: Literal["nanometer", "micrometer", "millimeter"] = "nanometer"

    @field_validator("api")
    @classmethod
    def _one_name(cls, api: str) -> str:
        return api.removesuffix(_SAME) + _USUAL if api.endswith(_SAME) else api

    def may_include(self, token: str) -> bool:
        """Return whether the options can include a channel of a project.

        ``token`` is encoded as in a local id.

        Parameters
        ----------
        token
            The token of the project, encoded as in a local id.

        Returns
        -------
        bool
            False if no pattern can match.
        """
        if any(one.endswith("*") and fnmatchcase(f"{token}/", one) for one in self.exclude):
            return False
        return not self.include or any(_may_match(token, one) for one in self.include)


def _may_match(token: str, pattern: str) -> bool:
    """Return whether a pattern can match a token, a slash and a channel's name."""
    before, slash, rest = pattern.partition("/")
    if not slash or "/" in rest or "[" in pattern:
        return True
    return fnmatchcase(token, before)
