"""Previews of images and of the first page of PDF documents."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from neuromirror.previews.shapes import Picture, Preview

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

_SIDE: Final = 768
"""Maximum width and height of a preview in pixels."""
_MAX_PIXELS: Final = 100_000_000
_FORMATS: Final = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
"""The formats that are read: for others, Pillow may start a program (Ghostscript for EPS)."""


def preview_image(file: BinaryIO) -> Preview:
    """Preview an image: a smaller copy, its size and its format.

    Parameters
    ----------
    file
        The image file.

    Returns
    -------
    Preview
        The preview.

    Raises
    ------
    MemoryError
        The image has too many pixels.
    Exception
        Pillow cannot read the file.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = _MAX_PIXELS // 2  # Pillow refuses twice as many
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            opened = Image.open(file, formats=_FORMATS)
        except Image.DecompressionBombError as error:
            raise MemoryError(str(error)) from error
    frames = getattr(opened, "n_frames", 1)
    facts = [
        ("Format", str(opened.format or "")),
        ("Width × height", f"{opened.width} × {opened.height} pixels"),
    ]
    if frames > 1:
        facts.append(("Images in the file", f"{frames}, the first is shown"))
    opened.draft("RGB", (_SIDE, _SIDE))  # lets libjpeg decode a smaller image
    return Preview("image", facts=facts, picture=_picture(opened, "The image"))


def preview_pdf(file: BinaryIO) -> Preview:
    """Preview a PDF document: its first page and its number of pages.

    Parameters
    ----------
    file
        The document.

    Returns
    -------
    Preview
        The preview.

    Raises
    ------
    Exception
        PDFium cannot read the document.
    """
    import pypdfium2

    document = pypdfium2.PdfDocument(file)
    page = document[0]
    scale = min(4.0, _SIDE / max(page.get_size()))
    facts = [("Pages", f"{len(document)}, the first is shown")]
    image = page.render(scale=scale).to_pil()
    return Preview("pdf", facts=facts, picture=_picture(image, "The first page"))


def draw_plane(plane: np.ndarray[Any, Any], description: str) -> Picture:
    """Draw a plane of numbers in grey, from the lowest to the highest of most values.

    Parameters
    ----------
    plane
        Two-dimensional array.
    description
        Text for those who do not see the image.

    Returns
    -------
    Picture
        The image.
    """
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(plane[:: _step(plane.shape[0]), :: _step(plane.shape[1])])
    values = values.astype("float32")
    low, high = np.percentile(values, (0.5, 99.5))
    scaled = np.clip((values - low) * (255 / max(high - low, 1e-9)), 0, 255)
    return _picture(Image.fromarray(scaled.astype("uint8")), description)


def _step(size: int) -> int:
    return max(1, size // (2 * _SIDE))


def _picture(image: Image, description: str) -> Picture:
    """Return an image as a small PNG."""
    if image.mode.startswith(("I", "F")):  # 16 bits and more: from the darkest to the brightest
        low, high = cast("tuple[float, float]", image.getextrema())
        factor = 255 / max(high - low, 1e-9)
        image = image.convert("F").point(lambda value: value * factor - low * factor)
    has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    image = image.convert("RGBA" if has_alpha else "L" if image.mode in "1LF" else "RGB")
    image.thumbnail((_SIDE, _SIDE))
    made = io.BytesIO()
    image.save(made, "PNG", optimize=True)
    return Picture("image/png", made.getvalue(), image.width, image.height, description)
