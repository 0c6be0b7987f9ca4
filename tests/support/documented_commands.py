"""Run the commands of a documentation page, and compare their output with the page.

A page consists of blocks of a fence, each with a mark in an HTML comment in the line before it, or
without one:

- none: run one after the other; the output must be the one shown, and the exit code 0;
- ``exit code N``: the same with another exit code;
- ``another terminal``: a server that runs until the end of the page;
- ``file: PATH``: not run; the content of that file;
- ``not run``: not runnable in tests (installations).
"""

import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from support.terminal import Terminal, matches

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>\w+)\n(?P<body>.*?)^```$", re.M | re.S
)
_IN_ANY_ORDER = re.compile(r"neuromirror sync|git (-C \S+ )?annex get -J|xargs neuromirror")


@dataclass(frozen=True)
class Step:
    """A command with the prompt before it (``$`` or ``#``) and the output shown below it."""

    prompt: str
    command: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A fenced block: its mark (possibly empty), language and text."""

    mark: str
    language: str
    body: str

    def steps(self) -> Iterator[Step]:
        assert self.body.startswith(("$ ", "# ")), self.body
        parts = re.split(r"^([$#]) ", self.body, flags=re.M)[1:]
        for prompt, part in zip(parts[::2], parts[1::2], strict=True):
            command, *shown = part.splitlines()
            yield Step(prompt, command, tuple(shown))


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page of ``docs``, in order."""
    text = (DOCS / page).read_text("utf-8")
    found = [
        Block(one["mark"] or "", one["language"], one["body"]) for one in _BLOCK.finditer(text)
    ]
    assert text.count("\n```") == 2 * len(found), f"{page} has a block that is not understood"
    return found


def run_page(page: str, folder: Path, stands_for: Mapping[str, str]) -> list[str]:
    """Run the commands of a page of ``docs/howto`` in ``folder``; return them as on the page.

    The keys of ``stands_for`` are replaced in files, commands and output.
    """

    def substitute(text: str) -> str:
        for placeholder, replacement in stands_for.items():
            text = text.replace(placeholder, replacement)
        return text

    typed = []
    with ExitStack() as stack:
        terminal = Terminal(folder)
        stack.callback(terminal.close)
        for block in blocks(f"howto/{page}"):
            if block.mark.startswith("file: "):
                path = folder / substitute(block.mark.removeprefix("file: "))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(substitute(block.body), "utf-8")
            elif block.language != "console" or block.mark == "not run":
                continue
            elif block.mark == "another terminal":
                (step,) = block.steps()
                stack.callback(_started(substitute(step.command), folder, terminal))
                typed.append(step.command)
            else:
                code = int(block.mark.removeprefix("exit code ") or "0") if block.mark else 0
                for step in block.steps():
                    shown = tuple(map(substitute, step.shown))
                    check_output(terminal, substitute(step.command), shown, code)
                    typed.append(step.command)
    return typed


def check_output(terminal: Terminal, command: str, shown: tuple[str, ...], code: int = 0) -> None:
    """Run a command, and compare its output with the one shown."""
    came = terminal.type(command, code)
    if _IN_ANY_ORDER.match(command):
        shown, came = tuple(sorted(shown)), sorted(came)
    assert matches(shown, came), f"$ {command}\n" + "\n".join(came)


def _started(command: str, folder: Path, terminal: Terminal) -> Callable[[], None]:
    """Start a server of the page, wait for its port, and return a function that stops it."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=folder,
        env=terminal.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (port,) = set(re.findall(r"\b(\d{4,5})\b", command))
    waiting = f"for one in $(seq 600); do (: </dev/tcp/127.0.0.1/{port}) && break; sleep 0.1; done"
    terminal.type(f"{{ {waiting}; }} 2>/dev/null")

    def end() -> None:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)

    return end


def not_run(page: str) -> list[list[str]]:
    """Return the words of the commands of a page of ``docs/howto`` that are not run."""
    return [
        shlex.split(step.command)
        for block in blocks(f"howto/{page}")
        if block.mark == "not run" and block.language == "console"
        for step in block.steps()
    ]
