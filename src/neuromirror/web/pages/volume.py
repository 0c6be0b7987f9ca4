"""The pages of volumes: what one is, a picture of its middle, and boxes cut out of it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO, Final

from datasette.utils.asgi import Response

from neuromirror.index import Index, VersionRow
from neuromirror.model import ConfigurationError, NeuromirrorError, alias_of
from neuromirror.sources.volumes import Box
from neuromirror.volume import (
    CUTOUT_FORMATS,
    MOST_VOXELS,
    PRECOMPUTED,
    DescribedVolume,
    Middle,
    NotAVolume,
    NotReadable,
    OutsideVolume,
    TooMuch,
    around,
    checked_box,
    cutout,
    has_ome_type,
    middle,
    told_box,
)
from neuromirror.web.addresses import cutout_address
from neuromirror.web.asked import Asked, NoSuchPage, Wrong, view
from neuromirror.web.cutouts import CutoutFailed, Picture
from neuromirror.web.pages.viewers import is_web
from neuromirror.web.records import told_dataset, told_version, told_volume

_EDGES: Final = ("x0", "x1", "y0", "y1", "z0", "z1")
_LONGEST: Final = 16
"""Digits of a number that a form sends."""
_SEND_SECONDS: Final = 600.0
_PIECE: Final = 1 << 18
_MADE: Final = "1"
"""Told in ETags: a release that writes the same voxels as other bytes counts on."""
_KEPT: Final = "public, max-age=0, must-revalidate"
_FRAME: Final = 60
"""Letters in a line of words that stand in a picture's place."""
_SHOWN: Final = 400
"""Pixels on the screen up to which a small picture is enlarged."""


@view
async def volume(asked: Asked) -> Response:
    """A version as a volume."""
    row, found = await _volume(asked)
    level = asked.value("level")
    if level and level not in [one.name for one in found.volume.levels]:
        raise NoSuchPage(f"{row.name} has no level {level[:40]}")
    return await _page(asked, row, found, level, {})


@view
async def picture(asked: Asked) -> Response:
    """The picture of a version's middle; where it cannot be had, a picture that says so."""
    row, found = await _volume(asked)
    cutouts = asked.site.cutouts
    tag = _tag("slice", row.commit)
    if asked.has(tag):
        return Response("", 304, _headers(tag))
    try:
        plane = middle(found)
        made = await cutouts.picture(row, found, plane)
    except (NotReadable, TooMuch) as error:
        return await _words(asked, str(error), 404)
    except CutoutFailed as error:
        return await _words(asked, str(error), error.status)
    headers = _headers(tag) | {"content-length": str(len(made.png))}
    return Response(made.png, 200, headers, "image/png")


@view
async def cut(asked: Asked) -> Response:
    """A box of a version as a file; what cannot be given is told on the volume's page."""
    row, found = await _volume(asked)
    given = {name: asked.value(name).strip() for name in (*_EDGES, "t", "level", "format")}
    level = given["level"] or found.volume.levels[0].name
    try:
        region = cutout(found, level, _box(given), _time(given["t"]))
        make = CUTOUT_FORMATS.get(given["format"] or "tiff")
        if make is None:
            raise Wrong(f"a cut-out is {' or '.join(CUTOUT_FORMATS)}, not {given['format'][:40]!r}")
        asked.site.cutouts.check_possible()
        kind = make(region.region)
        tag = _tag(row.commit, level, told_box(region.region.box), given["t"], kind.name)
        headers = _headers(tag) | {"content-disposition": f'attachment; filename="{kind.name}"'}
        if asked.has(tag):
            return Response("", 304, headers)
        if asked.is_head:
            return Response("", 200, headers, kind.media_type)
        file = await asked.site.cutouts.cut(row, region, kind)
    except CutoutFailed as error:
        return await _refused(asked, row, found, given, str(error), error.status)
    except (ConfigurationError, Wrong) as error:
        return await _refused(asked, row, found, given, str(error), 400)
    return _File(asked, file, headers, kind.media_type)


async def _volume(asked: Asked) -> tuple[VersionRow, DescribedVolume]:
    name, label = asked.part("name"), asked.part("label")
    row = await asked.ask(lambda index: index.resolve(name, label))
    try:
        return row, await asked.site.reader.do(lambda: asked.site.cutouts.described(row))
    except NotAVolume as error:
        raise NoSuchPage(str(error)) from error


async def _refused(
    asked: Asked,
    row: VersionRow,
    found: DescribedVolume,
    given: Mapping[str, str],
    why: str,
    status: int,
) -> Response:
    """The volume's page with what was asked for, and why it is not given."""
    levels = [one.name for one in found.volume.levels]
    level = given["level"] if given["level"] in levels else ""
    reply = await _page(asked, row, found, level, given, problem=why, status=status)
    if status == 503:
        reply.headers["retry-after"] = "30"
    return reply


async def _page(
    asked: Asked,
    row: VersionRow,
    found: DescribedVolume,
    level: str,
    given: Mapping[str, str],
    problem: str = "",
    status: int = 200,
) -> Response:
    def look(index: Index) -> dict[str, Any]:
        return {
            "dataset": told_dataset(index.dataset(row.dataset_name)),
            "links": [one for one in index.links(row.dataset_name) if is_web(one[1])],
        }

    shown, no_picture = _middle(found)
    form = _form(found, level or (shown.cutout.region.volume.level.name if shown else ""))
    cutouts = asked.site.cutouts
    known = cutouts.known(row.commit)
    return await asked.page(
        "volume",
        status,
        version=told_version(row),
        volume=told_volume(found),
        picture=None if shown is None else _picture(shown, known),
        no_picture=no_picture or (str(known) if isinstance(known, CutoutFailed) else ""),
        form=form,
        given={**form["defaults"], **{name: text for name, text in given.items() if text}},
        same=_command(found, form, given),
        problem=problem,
        cutouts_allowed=cutouts.allowed,
        lacking=cutouts.lacking,
        action=cutout_address(row.dataset_name, row.label),
        most=MOST_VOXELS,
        is_layer=found.format == PRECOMPUTED,
        alias=alias_of(row.dataset_name),
        ome=has_ome_type(found.volume.dtype),
        **await asked.ask(look),
    )


def _middle(found: DescribedVolume) -> tuple[Middle | None, str]:
    try:
        return middle(found), ""
    except (NotReadable, TooMuch) as error:
        return None, str(error)


def _picture(shown: Middle, known: Picture | CutoutFailed | None) -> dict[str, Any]:
    """What the page tells of the picture, before it is there."""
    region = shown.cutout.region
    (x0, x1), (y0, y1), (z, _) = region.box
    return {
        "level": region.volume.level.name,
        "z": z,
        "time": region.time,
        "box": f"x {x0} to {x1}, y {y0} to {y1}",
        "whole": shown.whole,
        "step": shown.step,
        "width": -(-(x1 - x0) // shown.step),
        "height": -(-(y1 - y0) // shown.step),
        "scale": max(1, _SHOWN // max(x1 - x0, y1 - y0)),
        "blocks": shown.cutout.blocks,
        "words": known.words if isinstance(known, Picture) else "",
    }


def _form(found: DescribedVolume, level: str) -> dict[str, Any]:
    """The level that the form is for, and a box to begin with: all of it, or what is given."""
    names = [one.name for one in found.volume.levels]
    number = names.index(level) if level in names else 0
    one, stored = found.volume.levels[number], found.stored[number]
    times = found.volume.times
    box = _first_box(found, names[number], None if times is None else times[0])
    defaults = {name: str(value) for name, value in zip(_EDGES, sum(box, ()), strict=True)}
    if times is not None:
        defaults["t"] = str(times[0])
    return {
        "level": names[number],
        "levels": names,
        "axes": list(zip("xyz", one.start, one.stop, strict=True)),
        "times": None if times is None else (times[0], times[-1]),
        "unread": stored.unread,
        "folder": stored.folder,
        "defaults": {**defaults, "level": names[number], "format": "tiff"},
    }


def _command(
    found: DescribedVolume, form: Mapping[str, Any], given: Mapping[str, str]
) -> dict[str, str]:
    """The numbers of a command that gives the same: those given, if they lie in the volume."""
    names = [name for name in (*_EDGES, "t") if name in form["defaults"]]
    with suppress(Wrong, OutsideVolume):
        told = {name: str(_whole(name, given.get(name, ""))) for name in names}
        checked_box(found.at(form["level"])[0].volume, _box(told), found.version)
        return told
    return {name: form["defaults"][name] for name in names}


def _first_box(found: DescribedVolume, level: str, time: int | None) -> Box:
    """As much of a level as may be cut out, with its middle."""
    of, _ = found.at(level)
    boxes = around(of.level)
    for box in boxes:
        try:
            cutout(found, level, box, time)
        except TooMuch:
            continue
        except NotReadable:
            return boxes[0]
        return box
    return boxes[-1]


def _box(given: Mapping[str, str]) -> Box | None:
    """The box that a form tells; None where it tells none. Raises :class:`Wrong`."""
    if not any(given[name] for name in _EDGES):
        return None
    x0, x1, y0, y1, z0, z1 = (_whole(name, given[name]) for name in _EDGES)
    return (x0, x1), (y0, y1), (z0, z1)


def _time(text: str) -> int | None:
    return _whole("t", text) if text else None


def _whole(name: str, text: str) -> int:
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > _LONGEST:
        raise Wrong(f"{name} is a whole number of voxels, not {text[:40]!r}")
    return int(text)


def _tag(*of: str) -> str:
    return f'"{hashlib.sha256("|".join((_MADE, *of)).encode()).hexdigest()[:32]}"'


def _headers(tag: str) -> dict[str, str]:
    return {"etag": tag, "cache-control": _KEPT}


async def _words(asked: Asked, why: str, status: int) -> Response:
    """Words in the picture's place: browsers show them, whatever the status."""
    lines = [""]
    for word in why.split():
        if len(lines[-1]) + len(word) > _FRAME:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    text = await asked.rendered("no_picture.svg", lines=lines)
    headers = {"cache-control": "no-store"}
    if status == 503:
        headers["retry-after"] = "30"
    return Response(text, status, headers, "image/svg+xml; charset=utf-8")


class _File(Response):  # type: ignore[misc,unused-ignore]
    """A file that is sent piece by piece, and is gone then; one that is not fetched is cut off."""

    def __init__(
        self, asked: Asked, file: BinaryIO, headers: dict[str, str], media_type: str
    ) -> None:
        size = os.fstat(file.fileno()).st_size
        super().__init__("", 200, {**headers, "content-length": str(size)}, media_type)
        self._asked, self._file = asked, file

    async def asgi_send(self, send: Any) -> None:
        """Sends it."""
        named = {**self.headers, "content-type": self.content_type}
        raw = [[name.encode(), value.encode()] for name, value in named.items()]
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await send({"type": "http.response.start", "status": 200, "headers": raw})
                while piece := await self._asked.site.reader.do(lambda: self._file.read(_PIECE)):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError as error:
            raise _TooSlowly("a cut-out was fetched too slowly, and is cut off") from error
        finally:
            self._file.close()
            self._asked.site.cutouts.sent()


class _TooSlowly(NeuromirrorError):
    """Somebody who takes very long to fetch what was made."""
