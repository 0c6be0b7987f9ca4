"""The files of a version as ``sha256sum -c`` takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from neuromirror.cli.common import printable

_MAX_SHOWN = 10


def print_sha256sums(files: Iterable[Mapping[str, Any]], others: Iterable[str]) -> int:
    """Prints a line for each file with a sha256; gives the exit code.

    Files without one, and ``others`` (sentences about what is no file of the list), are told on
    stderr, and make it 1: the list is not whole.
    """
    left_out = 0
    for file in files:
        sha256 = file["digests"].get("sha256")
        if sha256 is not None:
            # a path in git holds nothing that sha256sum would want escaped (annex.git_path)
            click.echo(f"{sha256}  {file['path']}".encode())
            continue
        left_out += 1
        if left_out <= _MAX_SHOWN:
            _print_omission(f"no sha256 is known of {file['path']} ({file['evidence']})")
    if left_out > _MAX_SHOWN:
        _print_omission(f"… and of {left_out - _MAX_SHOWN} more files")
    sentences = list(others)
    for sentence in sentences:
        _print_omission(sentence)
    return 1 if left_out or sentences else 0


def _print_omission(sentence: str) -> None:
    click.echo(printable(f"not in the list: {sentence}"), err=True)
