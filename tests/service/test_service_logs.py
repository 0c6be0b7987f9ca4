"""Logs: one line an event, for people and for programs, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
from pathlib import Path

import pytest

from neuromirror.crawl import Mirror, load_mirror
from neuromirror.service.logs import Secrets, log_event, logging_to

CANARY = "c4n4ry-0f-a-t0ken"


@pytest.fixture
def mirrors(tmp_path: Path) -> dict[str, Mirror]:
    """A mirror whose options name a secret variable with an inconspicuous name."""
    path = tmp_path / "demo.toml"
    path.write_text(
        'source = "dandi"\n[options]\napi = "https://api.example.org/api"\n'
        'token_env = "DEMO_WORD"\n'
    )
    return {"demo": load_mirror(path)}


def test_json_has_the_same_in_fields_of_their_own(mirrors: dict[str, Mirror]) -> None:
    stream = io.StringIO()
    with logging_to(stream, as_json=True, mirrors=mirrors):
        log_event(
            "visited",
            "100 % of it",
            level=logging.WARNING,
            mirror="demo",
            dataset="demo:000001",
            visit="v1",
            kind="visit",
            outcome="held",
            seconds=1,
        )
        log_event("started")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "warning",
        "event": "visited",
        "mirror": "demo",
        "dataset": "demo:000001",
        "visit": "v1",
        "kind": "visit",
        "outcome": "held",
        "seconds": 1,
        "message": "100 % of it",
    }
    del second["time"]
    assert second == {"level": "info", "event": "started", "message": ""}


def _logged(as_json: bool, mirrors: dict[str, Mirror], message: str) -> str:
    stream = io.StringIO()
    with logging_to(stream, as_json=as_json, mirrors=mirrors):
        log_event("visit failed", message, dataset=message, visit=message, outcome=message)
        logging.getLogger("urllib3.connectionpool").warning("Retrying: %s", message)
        try:
            try:
                raise OSError(message)
            except OSError as error:
                raise ValueError(message) from error
        except ValueError as error:
            log_event("broken", message, error=error)
    return stream.getvalue()


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "message",
    [
        "401 for {}",
        "GET https://someone:{}@api.example.org/x cannot be reached",
        "redirected to https://s3.example.org/o?X-Amz-Signature={}&versionId=7",
        "https://api.example.org/api?token={}",
        "s3://key:{}@bucket/o",
        'they sent "Authorization: token {}"',
        "Authorization: Bearer {}",
        "password={}",
    ],
)
def test_secrets_are_in_no_line(
    mirrors: dict[str, Mirror], monkeypatch: pytest.MonkeyPatch, as_json: bool, message: str
) -> None:
    # the first holds of what nothing but the environment says that it is one
    if message == "401 for {}":
        monkeypatch.setenv("DEMO_WORD", CANARY)
    output = _logged(as_json, mirrors, message.format(CANARY))
    assert CANARY not in output
    assert "visit failed" in output
    assert "urllib3.connectionpool" in output
    assert "Traceback" in output


@pytest.mark.parametrize(
    "name", ["DANDI_API_KEY", "BOSS_TOKEN", "AWS_SECRET_ACCESS_KEY", "SOME_PASSWORD", "DEMO_WORD"]
)
def test_secret_variables_of_the_environment_are_redacted(
    mirrors: dict[str, Mirror], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    secret = "a/b+c d=e&f"
    monkeypatch.setenv(name, f" {secret} ")
    redact = Secrets(mirrors).redact
    assert redact(f"got {secret}, and a%2Fb%2Bc%20d%3De%26f in an address") == (
        "got ***, and *** in an address"
    )
    monkeypatch.setenv(name, "on")
    assert redact("go on") == "go on"


@pytest.mark.parametrize("as_json", [False, True])
def test_upstreams_text_makes_no_line_of_its_own(mirrors: dict[str, Mirror], as_json: bool) -> None:
    stream = io.StringIO()
    with logging_to(stream, as_json=as_json, mirrors=mirrors):
        log_event(
            "held", "bad\n2026-01-01T00:00:00.000Z info  forged\r\x1b[2J\u2028\u202e", mirror="a\nb"
        )
    output = stream.getvalue()
    assert output.count("\n") == 1
    assert output.isprintable() is False
    assert output.rstrip("\n").isprintable()


def test_a_message_without_end_is_cut(mirrors: dict[str, Mirror]) -> None:
    stream = io.StringIO()
    with logging_to(stream, mirrors=mirrors):
        log_event("held", "x" * 1_000_000)
    assert len(stream.getvalue()) < 10_000


def test_a_dead_thread_is_logged_without_secrets(
    mirrors: dict[str, Mirror], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEMO_WORD", CANARY)
    stream = io.StringIO()

    def die() -> None:
        raise RuntimeError(f"no way with {CANARY}")

    before = threading.excepthook
    with logging_to(stream, mirrors=mirrors):
        thread = threading.Thread(target=die, name="poor one")
        thread.start()
        thread.join()
    output = stream.getvalue() + "".join(capfd.readouterr())
    assert "critical" in output
    assert "poor one: RuntimeError: no way with ***" in output
    assert CANARY not in output
    assert threading.excepthook is before
