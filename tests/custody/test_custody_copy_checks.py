"""Reading copies: wrong bytes, a copy that is gone, and one of which nothing is known."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from neuromirror.custody.copies import UncheckedCopyError, find_fault, is_proof
from neuromirror.vault.errors import CopyMissingError
from neuromirror.vault.protocol import Presence
from support.vaults import directory_vault, key_of, put


def test_right_and_wrong_bytes_are_distinguished_from_those_that_were_not_read(
    tmp_path: Path,
) -> None:
    vault = directory_vault(tmp_path)
    key = put(vault, tmp_path, b"the content")
    assert find_fault(vault, key) is None
    stop = threading.Event()
    stop.set()
    with pytest.raises(UncheckedCopyError):
        find_fault(vault, key, stop)
    path = Path(os.fsdecode(vault.object_path(key)))
    path.chmod(0o644)
    path.write_bytes(b"The content")
    assert find_fault(vault, key) is not None
    path.write_bytes(b"the conten")
    assert find_fault(vault, key) is not None
    vault.remove(key)
    with pytest.raises(CopyMissingError):
        find_fault(vault, key)


def test_a_key_that_cannot_be_verified_is_not_a_fault(tmp_path: Path) -> None:
    vault = directory_vault(tmp_path)
    with pytest.raises(UncheckedCopyError):
        find_fault(vault, "WORM-s3-m1700000000--name")


def test_only_the_sha256_of_the_key_is_a_proof() -> None:
    key = key_of(b"x")
    sha256 = key.partition("--")[2].partition(".")[0]
    assert is_proof(Presence(key, 1, "head", sha256))
    assert not is_proof(Presence(key, 2, "head", sha256))
    assert not is_proof(Presence(key, 1, "head", sha256[::-1]))
    assert not is_proof(Presence(key, 1, "head"))
    assert not is_proof(Presence("MD5E-s1--abc.bin", 1, "head", sha256))
