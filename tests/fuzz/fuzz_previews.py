"""Targets: previews of files that anybody may have uploaded, and READMEs."""

import io
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import h5py
import msgspec
import numpy
from fuzz_core import SEEDS, check_agreement, fixed_seeds, target
from PIL import Image

from neuromirror.previews import Preview, decode_outcome, preview_kind, worker
from neuromirror.previews.zarr import preview_zarr
from neuromirror.web.readmes import render

_SIDE = 768
_MAX_PIXELS = 4_000_000
"""Pixels of an image that is decoded here; the preview process has a limit on memory of its own."""
_SVG = {f"{{http://www.w3.org/2000/svg}}{name}" for name in ("svg", "path", "text")}


class UnreadableError(Exception):
    """The preview process reports the file as unreadable, or too large."""


def _check(made: Preview) -> None:
    """Check what the catalogue gets from the preview process."""
    encoded = msgspec.json.encode(made)
    check_agreement(decode_outcome(encoded) == made, "round trip")
    check_agreement(len(encoded) < 4 << 20, "size", len(encoded))
    for table in made.tables:
        check_agreement(all(len(row) == len(table.columns) for row in table.rows), table)
    picture = made.picture
    if picture is None:
        return
    if picture.media_type == "image/svg+xml":
        drawn = ElementTree.fromstring(picture.data)
        check_agreement({one.tag for one in drawn.iter()} <= _SVG, picture.data)
        return
    with Image.open(io.BytesIO(picture.data)) as image:
        check_agreement(image.format == "PNG" and max(image.size) <= _SIDE, image)


def _preview(data: bytes, path: str, *, verified: bool = True) -> None:
    kind = preview_kind(path, len(data) or 1)
    assert kind is not None
    try:
        made = worker._preview(io.BytesIO(data), path, kind, verified=verified)
    except Exception as error:
        raise UnreadableError from error
    _check(made)


def _hdf5(*, nwb: bool) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w", libver="earliest") as made:
        if nwb:
            made.attrs["nwb_version"] = "2.7.0"
        made["session_description"] = "a session"
        made["general/subject/species"] = "Mus musculus"
        made["general/devices/probe/id"] = 1
        made["general/lab"] = ["a", "b"]
        series = made.create_group("acquisition/lfp")
        series.attrs["neurodata_type"] = "ElectricalSeries"
        data = series.create_dataset("data", data=numpy.arange(60, dtype="i2").reshape(20, 3))
        data.attrs["unit"], data.attrs["conversion"] = "volts", 0.5
        series["starting_time"] = 0.0
        series["starting_time"].attrs["rate"] = 10.0
        other = made.create_group("processing/module/speed")
        other.create_dataset("data", data=numpy.ones(9, "f4"), chunks=(4,), compression="gzip")
        other["timestamps"] = numpy.arange(9.0)
        made["acquisition/soft"] = h5py.SoftLink("/acquisition/lfp")
    return file.getvalue()


@target("preview-nwb", UnreadableError, seeds=lambda: [_hdf5(nwb=True)], slow=True)
def preview_nwb(data: bytes) -> None:
    """Previews of NWB files."""
    _preview(data, "a.nwb")


target("preview-hdf5", UnreadableError, seeds=lambda: [_hdf5(nwb=False)], slow=True)(
    lambda data: _preview(data, "a.h5")
)


def _images() -> Sequence[bytes]:
    made = []
    pixels = numpy.arange(63, dtype="u1").reshape(7, 9)
    for mode, form in (
        *(("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("RGB", "JPEG"), ("P", "GIF")),
        *(("RGB", "BMP"), ("RGB", "WEBP"), ("RGB", "TIFF"), ("I;16", "TIFF"), ("1", "TIFF")),
    ):
        image = Image.fromarray(pixels).convert("I" if mode == "I;16" else mode)
        file = io.BytesIO()
        (image.convert(mode) if mode == "I;16" else image).save(file, form)
        made.append(file.getvalue())
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    file = io.BytesIO()
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:], compression="tiff_lzw")
    return [*made, file.getvalue()]


@target("preview-image", UnreadableError, seeds=_images)
def preview_image(data: bytes) -> None:
    """Previews of images."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
    except Exception as error:
        raise UnreadableError from error
    if width * height <= _MAX_PIXELS:
        _preview(data, "a.png")


def _documents() -> Sequence[bytes]:
    import pypdfium2

    document = pypdfium2.PdfDocument.new()
    document.new_page(200, 100)
    file = io.BytesIO()
    document.save(file)
    plain = (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]"
        b"/Count 1>>endobj\n3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 90 70]/Contents 4 0 R"
        b"/Resources<</Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>endobj\n"
        b"4 0 obj<</Length 59>>stream\nBT /F 12 Tf 9 9 Td (text) Tj ET 1 0 0 rg 5 5 30 30 re f\n"
        b"endstream endobj\ntrailer<</Root 1 0 R>>\n"
    )
    return [file.getvalue(), plain]


@target("preview-pdf", UnreadableError, seeds=_documents, kind="text", slow=True)
def preview_pdf(data: bytes) -> None:
    """Previews of PDF documents."""
    _preview(data, "a.pdf")


_TEXTS = ("a.csv", "a.tsv", "a.json", "a.txt", "README")


@target(
    "preview-text",
    UnreadableError,
    seeds=fixed_seeds(
        b'\0a,b;c\n1,"2\n3",\n', b"\1a\tb\n1\t2\n", b'\2{"a": [1, 2.5, null, "\\ud800"]}', b"\3a\nb"
    ),
    kind="1+text",
)
def preview_text(data: bytes) -> None:
    """Previews of tables and of text; the first byte chooses the name."""
    choice = data[0] if data else 0
    path = _TEXTS[choice % len(_TEXTS)]
    _preview(data[1:], path, verified=choice < 128)


_TAGS = {
    *("p", "pre", "code", "em", "strong", "s", "ul", "ol", "li", "blockquote", "hr", "br", "a"),
    *("span", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES = {
    "a": {"href", "rel"},
    "span": {"class"},
    "code": {"class"},
    "ol": {"start"},
    "th": {"style"},
    "td": {"style"},
}


class _Checker(HTMLParser):
    """Checks that HTML has only the elements and attributes of a README."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Check an element."""
        check_agreement(tag in _TAGS, tag, attrs)
        for name, value in attrs:
            check_agreement(name in _ATTRIBUTES.get(tag, set()), tag, name, value)
            if name == "href":
                allowed = re.match(r"(?i)https?://|mailto:", value or "")
                check_agreement(allowed is not None, value)
            if name == "style":
                check_agreement(re.fullmatch(r"text-align:(left|right|center)", value or ""), value)

    def handle_decl(self, decl: str) -> None:
        """Refuse a declaration."""
        check_agreement(False, decl)

    handle_comment = handle_pi = unknown_decl = handle_decl


_README = """# Title <script>alert(1)</script>

[a](https://example.org "t") [b](javascript:alert(1)) <https://example.org> ![c](x.png)
[d]: data:text/html,x
[d] ~~e~~ `f` &lt;b&gt; **g *h* i** \\* j
- k
  1. l
> m

| n | o |
|---|:-:|
| p | q |

```html" onload=x
<b>
```
"""


@target("readme", seeds=fixed_seeds(_README, "[" * 50 + "](x)" * 50, "> " * 90 + "a"), kind="text")
def readme(data: bytes) -> None:
    """READMEs in Markdown: their HTML has no script, and only links to web and mail addresses."""
    checker = _Checker(convert_charrefs=True)
    checker.feed(str(render("README.md", data.decode("utf-8", "replace"))))
    checker.close()


class _ZarrFiles(dict[str, Any]):
    """The files of a version that is a Zarr: documents, and chunks of zeros."""

    has = dict.__contains__

    def git_document(self, path: str) -> bytes | None:
        return None if self.get(path) is None else msgspec.json.encode(self[path])

    def read_object(self, path: str, limit: int) -> bytes | None:
        return bytes(8) if path.endswith("/0") else None

    def entries(self, folder: str) -> list[tuple[str, bool]]:
        inner = f"{folder}/" if folder else ""
        below = (one[len(inner) :] for one in self if one.startswith(inner))
        return sorted({(one.partition("/")[0], "/" in one) for one in below})


_ZARRS = fixed_seeds(*map(json.dumps, SEEDS["zarrs"]))


@target("preview-zarr", UnreadableError, seeds=_ZARRS, kind="json", slow=True)
def preview_of_zarr(data: bytes) -> None:
    """Previews of Zarrs."""
    try:
        held = json.loads(data)
        files = _ZarrFiles(held if isinstance(held, dict) else {"zarr.json": held})
        made = preview_zarr(files, "")  # type: ignore[arg-type]
    except Exception as error:
        raise UnreadableError from error
    _check(made)
