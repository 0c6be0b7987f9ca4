"""Whatever settings of git a received repository has, nothing runs, is requested or is written."""

import random
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from neuromirror.lab import get
from neuromirror.model import NeuromirrorError
from support.loopback_http import serving_directory
from support.stub_server import StubServer
from support.web_clone import WebClone, git

_LEADING = re.compile(
    r"ask|cmd|command|cookie|diff|driver|editor|external|file|helper|hook|include|insteadof|monitor|"
    r"pack|pager|path|program|proxy|remote|ssh|template|textconv|url|vcs|worktree",
    re.IGNORECASE,
)
"""Names of settings that may be programs, paths or addresses; of the others some are tried."""


def _names() -> list[str]:
    listed = subprocess.run(["git", "help", "--config"], capture_output=True, text=True, check=True)
    found = [re.sub(r"<[^>]*>|\*", "origin", one) for one in listed.stdout.split()]
    return [one for one in found if re.fullmatch(r"[\w-]+(\..+)?\.[a-zA-Z][\w-]*", one)]


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_random_settings_start_no_program_and_lead_nowhere(
    web_clone: WebClone, tmp_path: Path, isolated_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY")  # so that http.proxy has an effect
    rng, names = random.Random(38), _names()
    leading = [one for one in names if _LEADING.search(one)]
    assert len(names) > 500
    made, folder, outside = tmp_path / "made", tmp_path / "above", tmp_path / "outside"
    outside.mkdir()
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {outside}/ran\nexit 1\n")
    program.chmod(0o755)
    git(web_clone.clone, "update-server-info")
    with serving_directory(web_clone.clone / ".git") as url, StubServer() as elsewhere:
        git(tmp_path, "init", "-q", str(made))
        git(made, "submodule", "-q", "add", url, "part")
        git(made, "commit", "-q", "-m", "part")
        git(made, "submodule", "-q", "deinit", "-f", "part")
        # git has to request them
        shutil.rmtree(made / ".git/modules/part/objects")
        (made / ".git/modules/part/objects").mkdir()
        values = (
            *(str(program), f"!{program}", f"ext::{program}", f"ssh://-oProxyCommand={program}/x"),
            *(str(outside / "new"), "../outside", "true", "false", "1", "origin"),
        )
        trials = [(one, elsewhere.url) for one in leading]
        trials += [(one, rng.choice(values)) for one in [*leading, *rng.sample(names, 20)]]
        before, accepted = _contents(isolated_home), 0
        shutil.copytree(made, folder, symlinks=True)
        for name, value in trials:
            section, _, key = name.rpartition(".")
            head = section.replace(".", ' "', 1) + '"' * ("." in section)
            for inner in ("config", "modules/part/config"):
                text = (made / ".git" / inner).read_text() + f'[{head}]\n\t{key} = "{value}"\n'
                (folder / ".git" / inner).write_text(text)
            with suppress(NeuromirrorError):
                list(get(folder, ["part/small/1.dat"]))
                accepted += 1
                shutil.rmtree(folder)
                shutil.copytree(made, folder, symlinks=True)
            assert list(outside.iterdir()) == [], name
            assert elsewhere.requests == [], name
    assert _contents(isolated_home) == before
    # the check is not the only defence: some repositories pass it
    assert 0 < accepted < len(trials)
