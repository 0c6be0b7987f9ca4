"""Bodies of contents: which requests have a token, and how often they are sent."""

from __future__ import annotations

from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from neuromirror.net import AccessDeniedError, HostCircuitBreaker, RequestLimits
from neuromirror.sources.api_tokens import host_token
from neuromirror.sources.volumes.urls import token_variable
from neuromirror.transfer.annex_branch import AnnexSettings
from neuromirror.transfer.content_bodies import BlockBodies, ContentBodies, FetchConnections
from neuromirror.transfer.url_sessions import S3Access, UrlSessions
from support.web_clone import FaultyWebServer, forbidden


def test_a_request_with_an_expired_token_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed, limits = ("127.0.0.1",), RequestLimits(attempts=1)
    with ExitStack() as stack:
        web = stack.enter_context(FaultyWebServer())
        monkeypatch.setenv(token_variable(urlsplit(web.url).netloc), "expired")
        web.faults["/a"] = [forbidden]
        sessions = stack.enter_context(UrlSessions(allowed, limits=limits, host_token=host_token))
        breaker = HostCircuitBreaker()
        connections = FetchConnections(sessions, S3Access({}, lambda host: True, limits), {})
        stack.callback(connections.close)
        blocks = BlockBodies(AnnexSettings({}))
        stack.callback(blocks.close)
        bodies = ContentBodies(blocks, breaker)
        counts = []
        for _ in range(3):
            web.requests.clear()
            with pytest.raises(AccessDeniedError), bodies.open(connections, f"{web.url}/a", "", 1):
                pass
            counts.append(["Authorization" in one.headers for one in web.requests])
    first, *later = counts
    assert {False, True} == set(first)
    assert later == [[one for one in first if one]] * 2
