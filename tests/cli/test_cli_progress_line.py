"""The progress of a command is one line on a terminal, and nothing elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from neuromirror.cli.common import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stderr", [Terminal(), io.StringIO()])
def test_a_line_shows_steps_and_bytes_and_is_removed(
    stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    with ProgressLine() as line:
        line.show("mirroring demo:000002")
        line.show("cloning demo:000002")
        line.show_bytes(0, 1000)
        line.show_bytes(500, 1000)
        with line.paused():
            sys.stdout.write("a result\n")
        line.show("another step")
    assert capsys.readouterr().out == "a result\n"
    if not stderr.isatty():
        assert stderr.getvalue() == ""
        return
    written = stderr.getvalue()
    assert "\n" not in written
    shown = [written.index(text) for text in ("mirroring", "cloning", "500/1.00k", "another")]
    assert shown == sorted(shown)
    assert written.rsplit("\r", 1)[1].strip() == ""
