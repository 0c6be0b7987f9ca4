"""The pages of volumes: description, preview and cutouts."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from starlette.responses import Response

from neuromirror.index import Index, VersionRow, shapes
from neuromirror.model import ConfigurationError, alias_of
from neuromirror.sources.volumes.urls import Box
from neuromirror.volume import (
    CUTOUT_FORMATS,
    MAX_VOXEL_BYTES,
    PRECOMPUTED,
    CutoutTooLargeError,
    MiddlePlane,
    OutsideVolumeError,
    UnreadableVolumeError,
    VolumeDescription,
    format_box,
    has_ome_type,
    middle_plane,
    nested_boxes,
    plan_cutout,
    validate_box,
)
from neuromirror.web.addresses import PARAMETER, cutout_address
from neuromirror.web.api.responses import Volume, describe_volume
from neuromirror.web.async_index import UnavailableError
from neuromirror.web.cutouts import Picture
from neuromirror.web.lookups import allow_command_for
from neuromirror.web.pages.folders import is_web
from neuromirror.web.request import (
    BadRequestError,
    CatalogueRequest,
    PageNotFoundError,
    SpooledResponse,
    resolve_version,
    view,
)

_EDGES: Final = ("x0", "x1", "y0", "y1", "z0", "z1")
_PARAMETERS: Final = (*_EDGES, "t", "level", "format")
_MAX_DIGITS: Final = 16
"""Maximum number of digits in a form field."""
_SEND_SECONDS: Final = 600.0
_FORMAT_VERSION: Final = "1"
"""Part of ETags: increment it when the same voxels are encoded differently."""
_CACHE_CONTROL: Final = "public, max-age=0, must-revalidate"
_LINE_WIDTH: Final = 60
"""Characters per line of the error image."""
_MIN_DISPLAY_SIZE: Final = 400
"""Pixels to which a small preview is enlarged."""


@view
async def volume(request: CatalogueRequest) -> Response:
    """Show a version as a volume."""
    row, found = await _volume(request)
    level = request.query_parameter("level")
    if level and level not in [one.name for one in found.volume.levels]:
        raise PageNotFoundError(f"{row.name} has no level {level[:40]}")
    return await _page(request, row, found, level, {})


@view
async def picture(request: CatalogueRequest) -> Response:
    """Return the image of a volume's middle plane, or an image with the error message."""
    row, found = await _volume(request)
    cutouts = request.site.cutouts
    tag = _etag("slice", row.commit)
    if request.has_etag(tag):
        return Response("", 304, _headers(tag))
    try:
        plane = middle_plane(found)
        made = await cutouts.picture(row, found, plane)
    except (UnreadableVolumeError, CutoutTooLargeError) as error:
        return await _error_image(request, str(error), 404)
    except UnavailableError as error:
        return await _error_image(request, str(error), error.status)
    headers = _headers(tag) | {"content-length": str(len(made.png))}
    return Response(made.png, 200, headers, "image/png")


@view
async def cut(request: CatalogueRequest) -> Response:
    """Return a cutout as a file, or the volume's page with a message if it is not possible."""
    row, found = await _volume(request)
    given = {name: request.query_parameter(name).strip() for name in _PARAMETERS}
    level = given["level"] or found.volume.levels[0].name
    try:
        _check_parameters(request)
        box = _parse_box(given)
        time = _parse_integer("t", given["t"]) if given["t"] else None
        region = plan_cutout(found, level, box, time)
        make = CUTOUT_FORMATS.get(given["format"] or "tiff")
        if make is None:
            raise BadRequestError(
                f"format must be {' or '.join(CUTOUT_FORMATS)}, not {given['format'][:40]!r}"
            )
        request.site.cutouts.check_possible()
        kind = make(region.region)
        tag = _etag(row.commit, level, format_box(region.region.box), given["t"], kind.name)
        name = _file_name(kind.name, level, row.label)
        headers = _headers(tag) | {"content-disposition": f'attachment; filename="{name}"'}
        if request.has_etag(tag):
            return Response("", 304, headers)
        if request.is_head:
            return Response("", 200, headers, kind.media_type)
        file = await request.site.cutouts.cut(row, region, kind)
    except UnavailableError as error:
        return await _error_page(request, row, found, given, str(error), error.status)
    except (ConfigurationError, BadRequestError) as error:
        return await _error_page(request, row, found, given, str(error), 400)
    headers["content-length"] = str(os.fstat(file.fileno()).st_size)
    return SpooledResponse(
        request,
        file,
        headers,
        kind.media_type,
        seconds=_SEND_SECONDS,
        on_sent=request.site.cutouts.finish_sending,
    )


def _file_name(name: str, level: str, label: str) -> str:
    """Return the name of the file of a cutout, with the level and the version."""
    ending = "".join(re.findall(r"(?:\.ome)?\.[a-z]+\Z", name))
    stem = f"{name.removesuffix(ending)}_level-{level}_{label}"
    return re.sub(r"[^\w.-]+", "_", stem, flags=re.ASCII) + ending


async def _volume(request: CatalogueRequest) -> tuple[VersionRow, VolumeDescription]:
    row = await resolve_version(request, *request.version_name)
    return row, await describe_volume(request, row)


async def _error_page(
    request: CatalogueRequest,
    row: VersionRow,
    found: VolumeDescription,
    given: Mapping[str, str],
    why: str,
    status: int,
) -> Response:
    """Return the volume's page with the submitted form and an error message."""
    levels = [one.name for one in found.volume.levels]
    level = given["level"] if given["level"] in levels else ""
    reply = await _page(request, row, found, level, given, problem=why, status=status)
    if status == 503:
        reply.headers["retry-after"] = "30"
    return reply


async def _page(
    request: CatalogueRequest,
    row: VersionRow,
    found: VolumeDescription,
    level: str,
    given: Mapping[str, str],
    problem: str = "",
    status: int = 200,
) -> Response:
    def look(index: Index) -> dict[str, Any]:
        return {
            "dataset": shapes.Dataset.of(index.datasets.get(row.dataset_name)).plain(),
            "links": [link for link in index.datasets.links(row.dataset_name) if is_web(link[1])],
            "allow_command": allow_command_for(index, [row]),
        }

    shown, no_picture = _middle_plane(found)
    form = _form(found, level or (shown.cutout.region.volume.level.name if shown else ""))
    cutouts = request.site.cutouts
    known = cutouts.cached_picture(row.commit)
    return await request.render_page(
        "volume",
        status,
        version=shapes.Version.of(row).plain(),
        volume=Volume.describe(found),
        picture=None if shown is None else _picture(shown, known),
        no_picture=no_picture or (str(known) if isinstance(known, UnavailableError) else ""),
        form=form,
        form_values={**form["defaults"], **{name: text for name, text in given.items() if text}},
        command_box=_command_box(found, form, given),
        problem=problem,
        cutouts_allowed=cutouts.is_allowed,
        missing_package=cutouts.missing_package,
        action=cutout_address(row.dataset_name, row.label),
        maximum=MAX_VOXEL_BYTES,
        is_layer=found.format == PRECOMPUTED,
        is_in_bucket=found.sparse,
        alias=alias_of(row.dataset_name),
        ome=has_ome_type(found.volume.dtype),
        **await request.query_index(look),
    )


def _middle_plane(found: VolumeDescription) -> tuple[MiddlePlane | None, str]:
    try:
        return middle_plane(found), ""
    except (UnreadableVolumeError, CutoutTooLargeError) as error:
        return None, str(error)


def _picture(shown: MiddlePlane, known: Picture | UnavailableError | None) -> dict[str, Any]:
    """Return the description of the preview, which is loaded later."""
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
        "scale": max(1, _MIN_DISPLAY_SIZE // max(x1 - x0, y1 - y0)),
        "blocks": shown.cutout.blocks,
        "caption": known.caption if isinstance(known, Picture) else "",
    }


def _form(found: VolumeDescription, level: str) -> dict[str, Any]:
    """Return the cutout form for a level, with a default box."""
    names = [one.name for one in found.volume.levels]
    number = names.index(level) if level in names else 0
    one, stored = found.volume.levels[number], found.storage[number]
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
        "unreadable_reason": stored.unreadable_reason,
        "folder": stored.folder,
        "defaults": {**defaults, "level": names[number], "format": "tiff"},
    }


def _command_box(
    found: VolumeDescription, form: Mapping[str, Any], given: Mapping[str, str]
) -> dict[str, str]:
    """Return the box for the example command: the submitted one if valid, or the default."""
    names = [name for name in (*_EDGES, "t") if name in form["defaults"]]
    with suppress(BadRequestError, OutsideVolumeError):
        numbers = {name: str(_parse_integer(name, given.get(name, ""))) for name in names}
        validate_box(found.level(form["level"])[0].volume, _parse_box(numbers), found.version)
        return numbers
    return {name: form["defaults"][name] for name in names}


def _first_box(found: VolumeDescription, level: str, time: int | None) -> Box:
    """Return the largest central box of a level that may be cut out."""
    of, _ = found.level(level)
    boxes = nested_boxes(of.level)
    for box in boxes:
        try:
            plan_cutout(found, level, box, time)
        except CutoutTooLargeError:
            continue
        except UnreadableVolumeError:
            return boxes[0]
        return box
    return boxes[-1]


def _check_parameters(request: CatalogueRequest) -> None:
    """Raise BadRequestError for an unknown parameter, without which another box would be cut."""
    for name, values in request.query_parameters().items():
        if name not in (*_PARAMETERS, PARAMETER):
            raise BadRequestError(
                f"{name[:40]!r} is not a parameter; a cutout has {', '.join(_PARAMETERS)}"
            )
        if len(values) > 1 and name != PARAMETER:
            raise BadRequestError(f"{name!r} has several values")


def _parse_box(given: Mapping[str, str]) -> Box | None:
    """Return the submitted box, None if empty; raises :class:`BadRequestError`."""
    if not any(given[name] for name in _EDGES):
        return None
    x0, x1, y0, y1, z0, z1 = (_parse_integer(name, given[name]) for name in _EDGES)
    return (x0, x1), (y0, y1), (z0, z1)


def _parse_integer(name: str, text: str) -> int:
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > _MAX_DIGITS:
        axis, end = name[0], {"0": " from", "1": " to"}.get(name[1:], "")
        raise BadRequestError(
            f"'{axis}{end}' ({name}) must be a whole number"
            + (f", not {text[:40]!r}" if text else "; it is empty")
        )
    return int(text)


def _etag(*of: str) -> str:
    return f'"{hashlib.sha256("|".join((_FORMAT_VERSION, *of)).encode()).hexdigest()[:32]}"'


def _headers(tag: str) -> dict[str, str]:
    return {"etag": tag, "cache-control": _CACHE_CONTROL}


async def _error_image(request: CatalogueRequest, why: str, status: int) -> Response:
    """Return an image with an error message, which browsers show despite the status."""
    lines = [""]
    for token in why.split():
        if len(lines[-1]) + len(token) > _LINE_WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {token}".strip()
    text = await request.render_template("error_image.svg", lines=lines)
    headers = {"cache-control": "no-store"}
    if status == 503:
        headers["retry-after"] = "30"
    return Response(text, status, headers, "image/svg+xml; charset=utf-8")
