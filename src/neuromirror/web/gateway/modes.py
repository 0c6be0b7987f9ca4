"""The operator's choice of how the gateway delivers the content of files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, get_args

from msgspec import Struct, field

from neuromirror.model import ConfigurationError

GatewayMode = Literal["off", "redirect", "proxy"]
MODES: Final[tuple[GatewayMode, ...]] = get_args(GatewayMode)


class GatewayModes(Struct, frozen=True):
    """The mode in which the gateway delivers files, by mirror.

    ``off`` delivers nothing below ``/at/``, ``redirect`` redirects to the archive, and ``proxy``
    reads the content and verifies it.

    Attributes
    ----------
    default
        The mode of all mirrors that are not in ``by_mirror``.
    by_mirror
        The mode of some mirrors, by name.
    """

    default: GatewayMode = "redirect"
    by_mirror: Mapping[str, GatewayMode] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, str]:
        """The mode by mirror; the default has the name ``""``."""
        return {"": self.default, **self.by_mirror}

    def of(self, mirror: str) -> GatewayMode:
        """Return the mode of a mirror."""
        return self.by_mirror.get(mirror, self.default)


def parse_modes(given: Iterable[str]) -> GatewayModes:
    """Parse the modes that an operator specified; without any, the mode is ``redirect``.

    Parameters
    ----------
    given
        Texts such as ``proxy``, for all mirrors, and ``aind=off``, for one. The last one counts.

    Returns
    -------
    GatewayModes
        The modes.

    Raises
    ------
    ConfigurationError
        If a text has another form or an unknown mode.
    """
    default, by_mirror = GatewayModes().default, dict[str, GatewayMode]()
    for text in given:
        mirror, equals, name = text.rpartition("=")
        if name not in MODES or bool(equals) != bool(mirror):
            raise ConfigurationError(
                f"gateway {text!r}: not MODE or MIRROR=MODE; the modes are {', '.join(MODES)}"
            )
        if mirror:
            by_mirror[mirror] = name
        else:
            default = name
    return GatewayModes(default, by_mirror)
