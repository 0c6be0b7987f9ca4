"""Whatever settings of git a received repository has, nothing runs, is requested or is written."""

import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest

from neuromirror.lab import get
from neuromirror.model import NeuromirrorError
from neuromirror.transfer.repository_check import RepositoryRefusedError, check_repository
from support.loopback_http import DirectoryHandler, serving_directory
from support.stub_server import StubServer
from support.web_clone import WebClone, git

_LEADING = re.compile(
    r"ask|cmd|command|cookie|diff|driver|editor|external|file|filter|helper|hook|include|insteadof|"
    r"monitor|pack|pager|path|program|proxy|remote|ssh|template|textconv|url|vcs|worktree",
    re.IGNORECASE,
)
"""Names of settings that may be programs, paths or addresses; of the others some are tried."""
_COOKIES = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\ta\tSECRET\n"


def _names() -> list[str]:
    listed = subprocess.run(["git", "help", "--config"], capture_output=True, text=True, check=True)
    return [one for one in listed.stdout.split() if re.search(r"\.[a-zA-Z*][\w-]*\Z", one)]


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _Handler(DirectoryHandler):
    """Sets cookies, wants a password for one folder, and records what else it gets."""

    received: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        if "SECRET" in str(self.headers):
            self.received.add(self.path)
        if self.path.startswith("/closed"):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()

    def end_headers(self) -> None:
        self.send_header("Set-Cookie", "a=b; Max-Age=10000")
        super().end_headers()


def _values(name: str, program: Path, elsewhere: str, url: str, home: Path) -> Iterator[str]:
    """Yield values with which a setting of this name would have an effect."""
    yield str(program)
    yield elsewhere
    if re.search("insteadof", name, re.IGNORECASE):
        yield f"{url}/"
    elif re.search("file|path|template", name, re.IGNORECASE):
        yield str(program.with_name("more"))
        yield str(home / "cookies")
        yield str(program.parent / "outside/new")
    elif re.search("helper|vcs|proxy", name, re.IGNORECASE):
        yield f"!{program}"
        yield "evil"
    elif name.endswith("rl"):
        yield f"ext::{program}"
        yield f"ssh://-oProxyCommand={program}/x"


def test_random_settings_start_no_program_and_lead_nowhere(
    web_clone: WebClone, tmp_path: Path, isolated_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY")  # so that http.proxy has an effect
    rng, names = random.Random(38), _names()
    leading = [one for one in names if _LEADING.search(one)]
    assert len(names) > 500
    made, folder, outside = tmp_path / "made", tmp_path / "above", tmp_path / "outside"
    outside.mkdir()
    places = ("part", "near", "far", "closed")
    (isolated_home / "cookies").write_text(_COOKIES)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {outside}/ran\nexit 1\n")
    program.chmod(0o755)
    (tmp_path / "more").write_text(
        f'[core]\n\tsshCommand = {program}\n[filter "origin"]\n\tsmudge = {program}\n'
    )
    git(web_clone.clone, "update-server-info")
    with serving_directory(web_clone.clone / ".git", _Handler) as url, StubServer() as elsewhere:
        git(tmp_path, "init", "-q", str(made))
        for place in places:
            add = ("submodule", "-q", "add", "--name", place, str(web_clone.clone), place)
            git(made, "-c", "protocol.file.allow=always", *add)
        git(made, "commit", "-q", "-m", "parts")
        git(made, "submodule", "-q", "deinit", "-f", "--all")
        # git may clone local repositories
        git(made, "config", "remote.origin.url", str(web_clone.clone))
        # git has to request them
        for place, at in {
            "part": url,
            "near": str(web_clone.clone),
            "far": "ssh://me@127.0.0.1:1/x",
            "closed": f"{url}/closed",
        }.items():
            module = made / ".git/modules" / place
            git(made, "config", f"submodule.{place}.url", at)
            git(module, "config", "remote.origin.url", at)
            (module / "info/attributes").write_text("* filter=origin diff=origin merge=origin\n")
            shutil.rmtree(module / "objects")
            (module / "objects").mkdir()
        trials = [
            (name, value)
            for name in leading
            for value in _values(name, program, elsewhere.url, url, isolated_home)
        ]
        trials += [(name, rng.choice(("true", "1", "evil"))) for name in rng.sample(names, 20)]
        before, accepted, outcomes = _contents(isolated_home), 0, set[str]()
        small = tmp_path / "small"
        git(tmp_path, "init", "-q", str(small))
        for name, value in trials:
            base = f"{elsewhere.url}/" if name.startswith("url.") else "origin"
            section, _, key = re.sub(r"<[^>]*>|\*", base, name).rpartition(".")
            head = section.replace(".", ' "', 1) + '"' * ("." in section)
            setting = f'[{head}]\n\t{key} = "{value}"\n'
            (small / ".git/config").write_text(setting)
            with suppress(RepositoryRefusedError):
                check_repository(small)
                accepted += 1
                shutil.copytree(made, folder, symlinks=True)
                for inner in (".", *(f"modules/{place}" for place in places)):
                    with (folder / ".git" / inner / "config").open("a") as config:
                        config.write(setting)
                for place in places:
                    with suppress(NeuromirrorError):
                        outcomes |= {one.status for one in get(folder, [f"{place}/small/1.dat"])}
                shutil.rmtree(folder)
            assert list(outside.iterdir()) == [], name
            assert elsewhere.requests == [], name
            assert _Handler.received == set(), name
            assert _contents(isolated_home) == before, name
    # the check is not the only defence: some repositories pass it
    assert 0 < accepted < len(trials)
    assert "ok" in outcomes
