"""The full text of messages, one file per group of commands in ``golden/``.

Texts of help are in ``docs/reference/commands.md``, which is generated. All other tests assert exit
codes, JSON and fields. After an intended change of a text, run this file with the environment
variable UPDATE_GOLDEN=1 and review the difference in git.
"""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror import __version__
from neuromirror.cli import main
from support.command_shell import Shell

GOLDEN = Path(__file__).with_name("golden")
OLD, NEW = "demo:000002@0.240301.1026", "demo:000002@0.240301.1055"
MESSAGES = {
    "Mirror": [
        "check-config",
        "sync nope",
        "sync demo:1",
        "sync demo:000001@draft",
        "sync --dry-run demo:000002",
        "holds",
        "release ffffffff",
    ],
    "Explore": [
        "list",
        "list --search nothing-like-this",
        "list --where subject",
        "versions demo:000099",
        "show demo",
        "show demo:000002@9.9",
        "files demo:000004 --format sha256sum",
        "find abc",
        "find sha256:00000000",
        f"diff {OLD} {NEW}",
        f"diff {OLD} some/folder",
    ],
    "Pin and restore": [
        "pin",
        "pin demo:000002 --path nothing.txt",
        "pin demo:000002 --whole --path sub-01",
        "pin demo:000001 demo:000002 --clone https://example.org/data",
        "cite nothing",
        "cite demo:000002 --no-files",
        "restore missing.lock --into data",
        "verify missing.lock",
        "verify --remote --full mirror-files",
        "outdated missing.lock",
        "outdated broken.lock",
        "reproduce demo",
    ],
    "Data": ["get", "export demo:000001 -o out"],
    "Keep": [
        "keep demo:000002",
        "keep demo:000002 --in nas",
        "vault",
        "vault show nas",
        "vault list nas",
    ],
    "Operate": [
        "serve demo:000001",
        "serve --once --catalogue 127.0.0.1:0",
        "serve --worker-memory 1M",
        "audit nope",
        "doctor nope",
        "fsck demo:000099",
        "repair demo:000099",
        "housekeeping nope",
        "restore-index empty",
        "takedown demo:000002",
        "takedown demo --reason test",
    ],
}


def _sections(shell: Shell, group: str) -> Iterator[str]:
    for command in ["--help"] * (group == "Mirror") + MESSAGES[group]:
        result = shell.run_any(*shlex.split(command))
        output = result.out + result.err
        code = f" (exit code {result.code})" if result.code else ""
        yield f"$ neuromirror {command}{code}\n{output}"


def _normalize(text: str, shell: Shell) -> str:
    for path, name in ((shell.store, "STORE"), (shell.mirrors, "MIRRORS"), (Path.cwd(), "FOLDER")):
        text = text.replace(str(path), name)
    text = re.sub(r"127\.0\.0\.1:\d{2,5}", "127.0.0.1:PORT", text)
    return text.replace(__version__, "VERSION")


@pytest.mark.parametrize("group", MESSAGES)
def test_messages_are_as_in_the_golden_file(
    synced: Shell, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "mirror-files"):
        (tmp_path / folder).mkdir()
    (tmp_path / "broken.lock").write_text('lock-version = 2\n[[dataset]]\nname = "demo:1"\n')
    shell = synced.with_changes(variables={"COLUMNS": "80"})
    text = _normalize("\n".join(_sections(shell, group)), shell)
    path = GOLDEN / f"{group.lower().replace(' ', '-')}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def test_every_command_is_in_one_golden_file() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {
        group.lower().replace(" ", "-") for group in main.sections
    }
    assert list(MESSAGES) == list(main.sections)
    assert [name for names in main.sections.values() for name in names] == list(main.commands)
