"""The program ``git-annex-backend-XS3ETAG``, which verifies content against a multipart ETag.

It implements git-annex's external backend protocol, version 1, on stdin and stdout. A key has the
form ``XS3ETAG-s<size>--<md5>-<parts>-<part size>``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import BinaryIO

from neuromirror.annex.keys import ExpectedEtag, etag_of, ignore_progress
from neuromirror.model.records import dandi_part_size

_PROGRESS_STEP = 16 * 1024**2
# S3's ETag of an upload with a single empty part.
_EMPTY_PART = "59adb24ef3cdbe0297f05b395827453f-1"

_PROPERTIES = {
    b"GETVERSION": b"VERSION 1",
    b"CANVERIFY": b"CANVERIFY-YES",
    b"ISSTABLE": b"ISSTABLE-YES",
    b"ISCRYPTOGRAPHICALLYSECURE": b"ISCRYPTOGRAPHICALLYSECURE-NO",
}


def serve(requests: BinaryIO, replies: BinaryIO) -> int:
    """Answer git-annex's requests until the end of the input; return the program's exit code.

    ``requests`` and ``replies`` are the streams of the external backend protocol.
    """

    def send(line: bytes) -> None:
        replies.write(line + b"\n")
        replies.flush()

    for request in requests:
        command, _, rest = request.rstrip(b"\n").partition(b" ")
        if command in _PROPERTIES:
            send(_PROPERTIES[command])
        elif command == b"GENKEY":
            send(_generate(rest, send))
        elif command == b"VERIFYKEYCONTENT":
            key, _, path = rest.partition(b" ")
            send(_verify(key, path, send))
        elif command == b"ERROR":
            return 1
        else:
            send(b"ERROR XS3ETAG: unknown request " + command)
            return 1
    return 0


def matches_key(
    stream: BinaryIO, size: int | None, name: str, progress: Callable[[int], None] = ignore_progress
) -> bool:
    """Return whether content matches a key.

    Parameters
    ----------
    stream
        The content.
    size
        Its size in bytes, if known.
    name
        The name of the key, ``<md5>-<parts>-<part size>``.
    progress
        Called with the number of bytes read so far.

    Raises
    ------
    ValueError
        If the name has another form.
    """
    etag, dash, part_size = name.rpartition("-")
    if not dash or not part_size.isdecimal() or len(etag.partition("-")[0]) != 32:
        raise ValueError(f"not the name of an XS3ETAG key: {name!r}")
    if size == 0 and etag == _EMPTY_PART:
        return True
    parts = etag.partition("-")[2]
    if size is not None and parts != str(-(-size // max(int(part_size), 1))):
        return False
    expected = ExpectedEtag(etag, int(part_size), size)
    return etag_of(stream, int(part_size), progress, expected) == etag


def _progress_reporter(send: Callable[[bytes], None]) -> Callable[[int], None]:
    last_reported = 0

    def progress(position: int) -> None:
        nonlocal last_reported
        if position - last_reported >= _PROGRESS_STEP:
            last_reported = position
            send(b"PROGRESS %d" % position)

    return progress


def _generate(path: bytes, send: Callable[[bytes], None]) -> bytes:
    """Generate a key with the part size that an upload to DANDI would use."""
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            part_size = dandi_part_size(size)
            etag = etag_of(stream, part_size, _progress_reporter(send))
    except (OSError, ValueError) as error:
        return b"GENKEY-FAILURE " + str(error).replace("\n", " ").encode("utf-8", "replace")
    return f"GENKEY-SUCCESS XS3ETAG-s{size}--{etag}-{part_size}".encode("ascii")


def _verify(key: bytes, path: bytes, send: Callable[[bytes], None]) -> bytes:
    name = key.partition(b"--")[2].decode("utf-8", "replace")
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            good = matches_key(stream, size, name, _progress_reporter(send))
    except (OSError, ValueError) as error:
        send(b"DEBUG " + str(error).replace("\n", " ").encode("utf-8", "replace"))
        good = False
    return b"VERIFYKEYCONTENT-SUCCESS" if good else b"VERIFYKEYCONTENT-FAILURE"


def main() -> None:
    """Run the git-annex backend program: answer git-annex on stdin and stdout until stdin ends."""
    try:
        code = serve(sys.stdin.buffer, sys.stdout.buffer)
    except (BrokenPipeError, KeyboardInterrupt):
        # git-annex has exited; prevent a second error when stdout is flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
