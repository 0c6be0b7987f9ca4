from collections.abc import Callable, Iterator

import pytest

from neuromirror.net import RequestLimits, Session
from support.stub_server import StubServer

QUICK = {"attempts": 3, "wait": 0.01, "wait_max": 0.02}


@pytest.fixture
def server() -> Iterator[StubServer]:
    with StubServer() as running:
        yield running


@pytest.fixture
def other_server() -> Iterator[StubServer]:
    with StubServer() as running:
        yield running


@pytest.fixture
def make_session() -> Callable[..., Session]:
    """Create sessions that may request loopback, with short waits; keywords override limits."""

    def make(*, allow_private: bool = True, tokens: dict[str, str] | None = None, **limits: object):
        return Session(
            allow_private=allow_private,
            tokens=tokens,
            limits=RequestLimits(**{**QUICK, **limits}),  # type: ignore[arg-type]
        )

    return make
