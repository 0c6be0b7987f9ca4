"""Previews of files: a summary, a table, text or a picture of an NWB file, an image, a table.

A preview is read from the archive on request, in a process of its own with limits on time, memory
and bytes, because the parsers get bytes that anybody may have uploaded.
"""

from __future__ import annotations

from neuromirror.previews.shapes import (
    FORMAT,
    Picture,
    Preview,
    PreviewFailure,
    PreviewKind,
    PreviewTask,
    Table,
    decode_outcome,
    preview_kind,
)

__all__ = [
    "FORMAT",
    "Picture",
    "Preview",
    "PreviewFailure",
    "PreviewKind",
    "PreviewTask",
    "Table",
    "decode_outcome",
    "preview_kind",
]
