"""Logs of a service without any secret, and its troubles on record until they are over."""

import io
import json
import logging
import re
import threading
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from neuromirror.config.mirror_files import load_mirror
from neuromirror.crawl import Mirror
from neuromirror.index import Schedule
from neuromirror.service.logs import Secrets, log_event, logging_to
from neuromirror.service.metrics import Metrics
from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness
from support.service_harness import open_service_harness

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


def failing(mirror_harness: MirrorHarness) -> set[tuple[str, str]]:
    with mirror_harness.index() as index:
        return {(failure.task, failure.mirror) for failure in index.crawl.failures()}


class Shut(Executor):
    """Takes no job while it is shut."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self.shut = True

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.shut:
            raise RuntimeError("no memory")
        return self._pool.submit(fn, *args, **kwargs)


def test_a_mirror_file_that_is_wrong_fails_until_it_is_right(mirror_harness: MirrorHarness) -> None:
    path = mirror_harness.mirrors / "demo.toml"
    right = path.read_text("utf-8")
    with open_service_harness(mirror_harness) as harness:
        path.write_text(right + "[nothing]\n")
        harness.service.reload_mirror_files()
        assert failing(mirror_harness) == {("configuration", "demo")}
        path.write_text(right)
        harness.service.reload_mirror_files()
        assert failing(mirror_harness) == set()


def test_workers_that_cannot_be_had_fail_until_they_can(
    mirror_harness: MirrorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.service.engine._CHECK_SECONDS", 0.0)
    with open_service_harness(mirror_harness) as harness:
        shut = Shut(harness.executor)
        monkeypatch.setattr(harness.service, "_executor", shut)
        harness.service.tick()
        assert failing(mirror_harness) == {("workers", "")}
        shut.shut = False
        harness.settle()
        assert failing(mirror_harness) == set()


ALERTS = Path(__file__).parents[2] / "scripts" / "alerts.yml"
_RULE = re.compile(
    r"(?:sum by \([^)]*\) \()?(?P<name>\w+)(?:\{(?P<label>\w+)!=\"(?P<other>\w+)\"\})?\)? > 0\Z"
)


def raised_alerts(mirror_harness: MirrorHarness, schedule: Schedule) -> set[str]:
    """The alerts about failures whose expression is true for the current metrics."""
    store = mirror_harness.store
    page = Metrics(store, store.index_path, schedule, ["demo"]).page().decode()
    samples = [one for family in text_string_to_metric_families(page) for one in family.samples]
    rules = {
        rule["alert"]: rule["expr"]
        for group in YAML(typ="safe").load(ALERTS)["groups"]
        for rule in group["rules"]
    }
    raised = set()
    for alert in ("NeuromirrorDatasetsFail", "NeuromirrorFailing"):
        rule = _RULE.match(rules[alert])
        assert rule is not None, rules[alert]
        found = [sample for sample in samples if sample.name == rule["name"]]
        if rule["label"]:
            found = [one for one in found if one.labels[rule["label"]] != rule["other"]]
        if sum(one.value for one in found) > 0:
            raised.add(alert)
    return raised


def test_alerts_are_raised_until_a_failure_is_over(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    with Schedule.open(mirror_harness.store.schedule_path) as schedule:
        for fault, expected in (
            (r"/dandisets/000002/versions/", {"NeuromirrorDatasetsFail"}),
            (r"/dandisets/$", {"NeuromirrorFailing"}),
        ):
            mirror_harness.sync()
            assert raised_alerts(mirror_harness, schedule) == set()
            demo.touch("000002")
            demo.fault("status", path=fault, status=403)
            mirror_harness.sync()
            assert raised_alerts(mirror_harness, schedule) == expected
            demo.clear_faults()
        mirror_harness.sync()
        assert raised_alerts(mirror_harness, schedule) == set()
