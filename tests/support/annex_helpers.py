"""Helpers of the annex tests: subprocesses, a file server, unusual names."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

TIMESTAMP = 1_600_000_000


def run(
    *command: str | bytes, cwd: Path, env: Mapping[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a program and return the result; a failure includes its messages."""
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, check=False, stdin=subprocess.DEVNULL
    )
    out = done.stdout.decode("utf-8", "surrogateescape")
    err = done.stderr.decode("utf-8", "surrogateescape")
    if check and done.returncode:
        raise AssertionError(f"{command}: exit {done.returncode}\n{out}\n{err}")
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


@dataclass
class FileServer:
    """The served files by path, and the paths requested with GET."""

    address: str
    contents: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def url(self, path: str) -> str:
        """Return the URL of a path."""
        return self.address + path


_PIECES = [
    *(b".git", b".GIT", b"git", b".gitmodules", b".GitAttributes", b".gitignore", b".mailmap"),
    *(b".datalad", b".neuromirror", b".noannex", b"modules", b"attributes", b"ignore", b"mailmap"),
    *(b"git~1", b"GITMOD~1", b"gitign~4", b"gi7eba~1", b"GI250A~9", b"gi7d29", b"maba30", b"gi7"),
    *(b"~1", b"~2", b"~10", b"~1000000", b"~", b"1", b"0", b".", b"..", b" ", b":", b"::$I"),
    *("\u200c".encode(), "\u202a".encode(), "\u206f".encode(), "\ufeff".encode()),
    *("\uffff".encode(), "\ufffe".encode(), "\x85".encode(), "\u2028".encode(), "é".encode()),
    *(b"\x01", b"\n", b"\t", b"\r", b"\x7f", b"\\", b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xf0\x9f"),
    *(b"%", b"%2E", b"%2e", b"%_", b"%+", b"%%", b"2E", b"_", b"+", b"%F", b"a", b"nwb", b"-"),
    *(b"x" * 238, b"x" * 250, "\U0001f9e0".encode() * 61, b" " * 240),
]
"""Parts of unusual names."""

path_components = st.lists(st.sampled_from(_PIECES), max_size=5).map(b"".join)
upstream_names = st.one_of(
    st.lists(path_components, max_size=4).map(b"/".join),
    st.binary(max_size=40),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
)
