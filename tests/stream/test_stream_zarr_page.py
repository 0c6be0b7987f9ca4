"""The examples of docs/howto/zarr.md run."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from support.pinned_locks import pin_latest
from support.streamed_zarrs import streamed_zarrs

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "zarr.md").read_text("utf-8")
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.S)


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    with streamed_zarrs(tmp_path / "zarrs", ("inline",)) as zarrs:
        replacements = {
            "dandi:000026@draft": zarrs.version(),
            "sub-01/sub-01_photo.ome.zarr": zarrs.path(2),
            "/data/store": str(zarrs.store()),
            'remote_protocol="https"': 'remote_protocol="http"',
        }
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("NEUROMIRROR_STORE", str(zarrs.store()))
        pin_latest(zarrs.harnesses["inline"], tmp_path / "datasets.lock", f"demo:{zarrs.dandiset}")
        for language, shown in BLOCKS:
            text = shown
            for placeholder, replacement in replacements.items():
                text = text.replace(placeholder, replacement)
            if "catalogue" in text or "spikeinterface" in text:
                continue  # servers and SpikeInterface need an environment of their own
            if "ome_zarr" in text and find_spec("ome_zarr") is None:
                continue
            if language == "python":
                exec(compile(text, "zarr.md", "exec"), {})
            else:
                for line in text.splitlines():
                    argv = shlex.split(line)
                    assert argv[0] == "neuromirror"
                    result = CliRunner().invoke(main, argv[1:])
                    assert result.exit_code == 0, result.stderr
            done.append(text)
    assert len(done) >= 4
