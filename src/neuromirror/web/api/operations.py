"""How an address of the API is declared: once, for what it takes, what it replies, and its words.

What a declaration says is checked of each request here, and described by
:mod:`neuromirror.web.api.openapi`.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from datasette.utils.asgi import Response

from neuromirror.web.asked import Asked, Wrong, view

ROOT = "/api/v1"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value that an address takes in its query.

    With ``most`` it is a whole number from 1 to that, with ``words`` one of these, and any text
    otherwise; ``default`` stands for it where it is not given and ``needed`` says that it must be.
    ``names`` says that it names something that may not be there.
    """

    name: str
    about: str
    example: str = ""
    default: str = ""
    most: int = 0
    words: tuple[str, ...] = ()
    needed: bool = False
    names: bool = False

    def checked(self, text: str) -> str:
        """A value that somebody gave; raises Wrong."""
        if self.most and not (
            text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= self.most
        ):
            raise Wrong(f"{self.name} is a whole number from 1 to {self.most}, not {text[:40]!r}")
        if self.words and text not in self.words:
            raise Wrong(f"{self.name} is {' or '.join(self.words)}, not {text[:40]!r}")
        if self.needed and not text:
            raise Wrong(f"{self.name} is empty; it is {self.about}")
        return text


class Given:
    """The values that somebody gave, each as its parameter wants it."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def whole(self, name: str) -> int:
        """A whole number."""
        return int(self._values[name])

    def place(self, kind: type[_T], start: _T) -> _T:
        """Where the page before ended, as :func:`following` wrote it; raises Wrong."""
        text = self._values["after"]
        if not text:
            return start
        try:
            padded = text.encode("ascii") + b"=" * (-len(text) % 4)
            return msgspec.json.decode(urlsafe_b64decode(padded), type=kind)
        except (ValueError, msgspec.DecodeError):
            raise Wrong(
                f"after is not {text[:40]!r}: take it from the 'next' of the page before"
            ) from None


def following(asked: Asked, path: str, place: object, **values: str | int) -> str:
    """The address of the page behind ``place``, with the values that are not empty.

    ``place`` is what the last row of a page is sorted by, so that what comes in between neither
    doubles a row nor hides one.
    """
    token = urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")
    kept = {name: value for name, value in values.items() if value != ""}
    return f"{asked.address}{ROOT}{path}?{urlencode({**kept, 'after': token})}"


Answer = Callable[[Asked, Given], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Operation:
    """An address of the API.

    ``path`` is its template below :data:`ROOT`, ``shape`` what it replies (one of
    :mod:`neuromirror.web.api.replies`), and the first line of ``answer``'s docstring its title.
    """

    path: str
    shape: Any
    answer: Answer
    parameters: tuple[Parameter, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What stands in braces."""
        return tuple(re.findall(r"\{(\w+)\}", self.path))

    @property
    def pattern(self) -> str:
        """The path as a regular expression, as Datasette takes it."""
        return re.sub(r"\{(\w+)\}", lambda found: _PATTERNS[found[1]], ROOT + self.path) + "$"

    def route(self) -> Any:
        """The view that checks what is given, answers, and says where the next page is."""

        @view
        async def answered(asked: Asked) -> Response:
            content = await self.answer(asked, self._given(asked))
            reply = asked.json(content)
            if content.get("next"):
                reply.headers["link"] = f'<{content["next"]}>; rel="next"'
            return reply

        return answered

    def _given(self, asked: Asked) -> Given:
        known = {one.name: one for one in self.parameters}
        given = asked.values()
        for name, values in given.items():
            if name not in known:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                raise Wrong(f"this address takes no {name[:40]!r}; {takes}")
            if len(values) > 1:
                raise Wrong(f"{name} is given {len(values)} times; once is enough")
        for one in self.parameters:
            if one.needed and one.name not in given:
                raise Wrong(f"{one.name} is missing: it is {one.about}")
        return Given(
            {
                name: one.checked(given[name][0]) if name in given else one.default
                for name, one in known.items()
            }
            | {name: asked.part(name) for name in self.names}
        )


_PATTERNS = {"name": r"(?P<name>[^@?]+)", "version": r"(?P<version>[^/?]+)"}


def routes(operations: Sequence[Operation]) -> list[tuple[str, Any]]:
    """What Datasette is to call for each operation."""
    return [(one.pattern, one.route()) for one in operations]
