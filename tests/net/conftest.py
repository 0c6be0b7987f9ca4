from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from net_loopback import Loopback

from neuromirror.net import Limits, Session

QUICK = {"attempts": 3, "wait": 0.01, "wait_max": 0.02}


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback() as running:
        yield running


@pytest.fixture
def other() -> Iterator[Loopback]:
    with Loopback() as running:
        yield running


@pytest.fixture
def quick() -> Callable[..., Session]:
    """Makes sessions that may ask loopback and hardly wait; keywords override limits."""

    def make(*, allow_private: bool = True, tokens: dict[str, str] | None = None, **limits: object):
        return Session(
            allow_private=allow_private,
            tokens=tokens,
            limits=Limits(**{**QUICK, **limits}),  # type: ignore[arg-type]
        )

    return make
