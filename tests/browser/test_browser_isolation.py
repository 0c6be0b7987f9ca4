"""The test browser reports errors, contacts no other host, and leaves no files behind."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Error
from test_browser_layout import spilt

from support.browser_session import (
    PROGRAMS,
    BrowserSession,
    SessionFactory,
    found_browser,
    launched,
)
from support.browser_site import BrowserSite


def planted(walk: BrowserSession, body: str) -> None:
    """A page of the site that says this, under the site's own policy."""
    headers = walk.page.request.get(f"{walk.address}/").headers
    policy = {"content-security-policy": headers["content-security-policy"]}
    walk.page.route(
        f"{walk.address}/planted",
        lambda route: route.fulfill(body=body, headers=policy, content_type="text/html"),
    )
    walk.open("/planted")


@pytest.mark.parametrize(
    ("body", "noticed"),
    [
        ("<script>1</script>", "policy: script-src-elem forbids inline"),
        ("<p style='color: red'>x</p>", "policy: style-src-attr forbids inline"),
        ("<img src='http://elsewhere.example/x.png' alt=''>", "elsewhere.example"),
        ("<img src='/no/such/picture.png' alt=''>", "/no/such/picture.png: 404"),
        ("<link rel=stylesheet href='/no/such.css'>", "Refused to apply style"),
    ],
)
def test_page_errors_fail_the_test(session: BrowserSession, body: str, noticed: str) -> None:
    planted(session, body)
    session.page.wait_for_load_state("networkidle")
    wrong, session.errors = session.errors, []
    assert noticed in " ".join(wrong)


def test_an_error_of_a_script_is_noticed(session: BrowserSession) -> None:
    session.open("/")
    session.page.evaluate("setTimeout(() => { throw new Error('on purpose') })")
    session.page.wait_for_timeout(100)
    wrong, session.errors = session.errors, []
    assert "on purpose" in " ".join(wrong)


def test_a_focus_that_is_not_seen_and_a_page_too_wide_are_noticed(session: BrowserSession) -> None:
    session.open("/")
    session.page.evaluate(
        "() => { for (const one of document.querySelectorAll('a')) one.style.outline = 'none';"
        " document.querySelector('h1').style.width = '3000px'; }"
    )
    with pytest.raises(AssertionError, match="'seen': False"):
        session.tab_to(session.page.get_by_role("searchbox").first)
    assert "<h1" in " ".join(spilt(session))


def test_browser_reaches_only_loopback(start_session: SessionFactory, site: BrowserSite) -> None:
    walk = start_session(site)
    for address in ("http://example.org/", "https://www.google.com/", "http://localhost:8080/"):
        with pytest.raises(Error, match="ERR_NAME_NOT_RESOLVED"):
            walk.page.goto(address)
    wrong, walk.errors = walk.errors, []
    assert "example.org" in " ".join(wrong)


def test_the_browser_and_its_driver_end_and_live_in_a_home_of_their_own(
    browser_program: str, tmp_path: Path
) -> None:
    def begun() -> set[psutil.Process]:
        return set(psutil.Process().children(recursive=True)) - before

    def work() -> None:
        with launched(browser_program, tmp_path) as browser:
            browser.new_page().goto("about:blank")
            during.update(begun())
            homes.update(one.environ().get("HOME") for one in during if _is_browser(one))

    before, homes = set(psutil.Process().children(recursive=True)), set[str | None]()
    during = set[psutil.Process]()
    # the tests' own browser has the loop of this thread
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(during) > 2
    assert homes == {str(tmp_path)}
    _, left = psutil.wait_procs(during, timeout=600)
    assert left == []


def _is_browser(one: psutil.Process) -> bool:
    """Whether a process is the browser itself; its child processes have no environment."""
    argv = one.cmdline()
    return "--disable-quic" in argv and not any(argument.startswith("--type=") for argument in argv)


def test_missing_browser_fails_in_ci_and_skips_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable, outcome in (
        ("true", pytest.fail.Exception),
        ("false", pytest.skip.Exception),
        ("", pytest.skip.Exception),
    ):
        monkeypatch.setenv("CI", variable)
        with pytest.raises(outcome, match="Debian: chromium"):
            found_browser()
    program = tmp_path / PROGRAMS[-1]
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert found_browser() == str(program)


def test_ci_installs_a_browser_only_where_none_is_found() -> None:
    path = Path(__file__).resolve().parents[2] / "scripts" / "environment.py"
    spec = importlib.util.spec_from_file_location("made", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.BROWSERS == PROGRAMS
