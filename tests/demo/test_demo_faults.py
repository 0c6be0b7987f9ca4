"""Each fault does what it says, to the requests it says, and no longer than it is on."""

from __future__ import annotations

import threading

import pytest
import requests

from neuromirror_demo import DemoArchive, DemoError

ASSETS = "/dandisets/000002/versions/draft/assets/?page_size=2&metadata=true"


def get(demo: DemoArchive, path: str) -> requests.Response:
    return requests.get(demo.api_url + path, timeout=300)


def walk(demo: DemoArchive, path: str = ASSETS) -> list[str]:
    """The paths (or ids) of a list, by following its links."""
    found: list[str] = []
    following: str | None = demo.api_url + path
    while following:
        body = requests.get(following, timeout=300).json()
        found += [row.get("path") or row.get("identifier") for row in body["results"]]
        following = body["next"]
    return found


def test_the_end_does_not_wait_for_a_hanging_request(demo: DemoArchive) -> None:
    demo.fault("hang", seconds=300)
    answered = threading.Event()

    def ask() -> None:
        requests.get(f"{demo.api_url}/info/", timeout=200)
        answered.set()

    asking = threading.Thread(target=ask)
    asking.start()
    while not demo.requests:
        asking.join(timeout=0.01)
    demo.__exit__(None, None, None)
    asking.join(timeout=60)
    assert answered.is_set()


def test_an_unknown_fault_or_option_is_refused(demo: DemoArchive) -> None:
    with pytest.raises(DemoError, match="lost_page"):
        demo.fault("nonsense")
    with pytest.raises(DemoError, match="colour"):
        demo.fault("status", colour="red")
