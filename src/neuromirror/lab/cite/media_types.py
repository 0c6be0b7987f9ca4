"""Media types by file extension, the same on every machine."""

from __future__ import annotations

from typing import Final

_OTHER: Final = "application/octet-stream"
_BY_ENDING: Final = {
    **{"avi": "video/x-msvideo", "bin": _OTHER, "csv": "text/csv", "gz": "application/gzip"},
    **{"h5": "application/x-hdf5", "hdf5": "application/x-hdf5", "htm": "text/html"},
    **{"html": "text/html", "jpeg": "image/jpeg", "jpg": "image/jpeg"},
    **{"json": "application/json", "jsonl": "application/jsonl", "log": "text/plain"},
    **{"mat": "application/x-matlab-data", "md": "text/markdown", "mkv": "video/x-matroska"},
    **{"mov": "video/quicktime", "mp4": "video/mp4", "nii": "application/x-nifti"},
    **{"npy": "application/x-npy", "npz": "application/x-npz", "nwb": "application/x-nwb"},
    **{"parquet": "application/vnd.apache.parquet", "pdf": "application/pdf"},
    **{"png": "image/png", "py": "text/x-python", "svg": "image/svg+xml"},
    **{"tar": "application/x-tar", "tif": "image/tiff", "tiff": "image/tiff"},
    **{"toml": "application/toml", "tsv": "text/tab-separated-values", "txt": "text/plain"},
    **{"wav": "audio/x-wav", "xml": "application/xml", "yaml": "application/yaml"},
    **{"yml": "application/yaml", "zip": "application/zip", "zst": "application/zstd"},
}


def media_type(path: str) -> str:
    """Return the media type (MIME type) for the extension of a file name."""
    ending = path.rpartition("/")[2].rpartition(".")[2]
    return _BY_ENDING.get(ending.casefold(), _OTHER)
