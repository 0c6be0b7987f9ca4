"""Targets: git-annex keys, pointers, logs and paths, compared with git-annex."""

import atexit
import io
import re
import subprocess
from contextlib import suppress
from functools import cache

from fuzz_core import check_agreement, fixed_seeds, target
from fuzz_git import scratch

from neuromirror.annex import (
    find_pointer_key,
    fits_path_limits,
    git_path,
    hash_lower,
    hash_mixed,
    key_digest,
    key_file_name,
    key_from_file_name,
    link_target,
    mark_clash,
    parse_key,
    parse_link_target,
    parse_log,
    parse_pointer,
    pointer_content,
    record_of_key,
    upstream_path,
)
from neuromirror.annex.backend import matches_key
from neuromirror.annex.keys import key_extension
from neuromirror.annex.logs import merge_location_log, merge_url_log, parse_remote_log, remote_log
from neuromirror.lab.rebuild import CommitUnreadableError, _file
from neuromirror.transfer.annex_clone import _key_of

_UUID = "00000000-0000-0000-0000-000000000001"


class _Examiner:
    """``git annex examinekey --batch``, which ends at the first text that is no key."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self._stop)

    def ask(self, key: str) -> list[bytes] | None:
        """Return size, backend, name and the two hashed folders of a key; None for no key."""
        if self._process is None:
            form = "\\n".join(
                ("${bytesize}", "${backend}", "${hashdirlower}", "${hashdirmixed}", "")
            )
            self._process = subprocess.Popen(
                ["git", "annex", "examinekey", "--batch", f"--format={form}"],
                cwd=self._repository(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(key.encode("utf-8", "surrogateescape") + b"\n")
        self._process.stdin.flush()
        lines = [self._process.stdout.readline().rstrip(b"\n") for _ in range(4)]
        if lines[-1]:
            return lines
        self._stop()
        return None

    @staticmethod
    def _repository() -> str:
        folder = scratch() / "annex"
        if not folder.exists():
            subprocess.run(["git", "init", "-q", str(folder)], check=True)
        return str(folder)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None


_examiner = cache(_Examiner)

_KEYS = [
    "SHA256E-s18792--" + "0" * 64 + ".nwb",
    "MD5E-s5--" + "f" * 32 + ".tar.gz",
    "XS3ETAG-s100--" + "0" * 32 + "-2-64",
    "VURL--https&c%%example.org%x,,y",
    "WORM-s3-m5-S1-C2--a&b/c:d",
]


@target("annex-key", ValueError, seeds=fixed_seeds(*_KEYS), kind="text", slow=True)
def annex_key(data: bytes) -> None:
    """Keys, taken apart and turned into file names, compared with ``git annex examinekey``."""
    key = data.decode("utf-8")
    parts = parse_key(key)
    check_agreement(key_from_file_name(key_file_name(key)) == key, "file name", key)
    check_agreement(
        parse_key(key_from_file_name(link_target(key, b"a/b").rpartition(b"/")[2])) == parts, "link"
    )
    key_digest(key)
    with suppress(ValueError):
        record_of_key(key, b"a")
    if parts.backend == "XS3ETAG":
        with suppress(ValueError):
            matches_key(io.BytesIO(b"content"), parts.size, parts.name)
    # examinekey strips the lines that it reads
    if "\n" in key or "\r" in key or "\0" in key or len(data) > 3000 or key != key.strip():
        return
    if re.match(r"[^-]*(-[sm][^-]*)*-[SC]", key):  # git-annex hashes the key that a chunk is of
        return
    examined = _examiner().ask(key)
    if examined is not None:
        size, backend, lower, mixed = examined
        check_agreement(
            size == (b"unknown" if parts.size is None else b"%d" % parts.size), "size", size, parts
        )
        check_agreement(backend == parts.backend.encode(), "backend", backend)
        check_agreement(lower == hash_lower(key) + b"/", "lower", lower)
        check_agreement(mixed == hash_mixed(key) + b"/", "mixed", mixed)


def _key_of_link(target: bytes) -> str | None:
    """The key of a link in a commit, as a restored one is read."""
    with suppress(CommitUnreadableError, ValueError):  # who reads many makes one of the other
        return _file(b"a.nwb", target).key
    return None


@target(
    "annex-pointer",
    seeds=fixed_seeds(*(pointer_content(key) for key in _KEYS), link_target(_KEYS[0], b"a/b")),
    kind="text",
)
def annex_pointer(data: bytes) -> None:
    """Pointer files and link targets, as a clone has them."""
    readers = (find_pointer_key, parse_link_target, parse_pointer, _key_of, _key_of_link)
    for key in filter(None, (read(data) for read in readers)):
        parse_key(key)
        with suppress(ValueError):
            record_of_key(key, b"a")


_LOG = f"1700000000s 1 {_UUID}\n1700000000.5s 0 here\n1 X old\nnonsense\n"


@target(
    "annex-log", seeds=fixed_seeds(_LOG, "1700000000s 1 https://example.org/a b\n"), kind="text"
)
def annex_log(data: bytes) -> None:
    """Location and URL logs: what is merged into one is in it afterwards."""
    parse_log(data)
    merged = merge_location_log(data, 1_700_000_000, _UUID)
    newest = max(
        (line for line in parse_log(merged) if line.value == _UUID), key=lambda line: line.timestamp
    )
    check_agreement(newest.status == "1", merged)
    check_agreement(merge_location_log(merged, 1_800_000_000, _UUID) == merged, "merged twice")
    check_agreement(
        merge_url_log(merge_url_log(data, ["u"], 5), ["u"], 6) == merge_url_log(data, ["u"], 5),
        "URL",
    )


@target(
    "git-path",
    seeds=fixed_seeds(
        "sub-01/a.nwb", ".git/x", "a//b", "%2E/%_", b"\xff\x00/..", "gi7eba~1/" + "é" * 200
    ),
    kind="text",
)
def git_paths(data: bytes) -> None:
    """Upstream names as git paths: reversible, and nothing in them that git refuses."""
    made = git_path(data)
    made.decode("utf-8")
    check_agreement(upstream_path(made) == data, "round trip", made)
    marked = mark_clash(made)
    check_agreement(upstream_path(marked) == data and marked != made, "clash", marked)
    for part in (*made.split(b"/"), *marked.split(b"/")):
        check_agreement(
            part not in (b"", b".", b"..") and part.lower() != b".git" and len(part) <= 255, part
        )
        check_agreement(not any(byte < 0x20 or byte == 0x7F for byte in part), part)
    fits_path_limits(made)
    key_extension(made)


@target(
    "annex-remote-log",
    seeds=fixed_seeds(
        remote_log(_UUID, {"type": "external", "name": "a b", "url": "https://&"}, 9)
    ),
    kind="text",
)
def annex_remote_log(data: bytes) -> None:
    """``remote.log``: what is written is read back."""
    for config in parse_remote_log(data).values():
        names = [one for one in config if re.fullmatch("[!-<>-~]+", one) and one != "timestamp"]
        kept = {name: config[name] for name in names}
        with suppress(UnicodeEncodeError):
            written = remote_log(_UUID, kept, 1)
            check_agreement(not kept or parse_remote_log(written)[_UUID] == kept, kept)
