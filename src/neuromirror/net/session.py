"""The one HTTP session: every request to an archive is made here."""

from __future__ import annotations

import json
import os
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
import requests.exceptions
import requests.utils
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from urllib3.exceptions import HTTPError as TransportError

from neuromirror.model import ConfigurationError, Traffic, declare_secrets
from neuromirror.net.bodies import error_fields, parse_json, raw_chunks, read_bounded
from neuromirror.net.errors import (
    Forbidden,
    HttpError,
    NetError,
    NotFound,
    RetryAfterTooLong,
    ServerTrouble,
    TimedOut,
    TooManyRequests,
    Unreachable,
    UnsafeAddress,
    innermost,
)
from neuromirror.net.guard import Deadline, GuardedAdapter, mirror_hint, refuse_behind_proxy
from neuromirror.net.manners import Manners, Turns, agent
from neuromirror.net.replies import Body, Reply, Stream, dict_of
from neuromirror.net.traffic import count
from neuromirror.net.urls import clean_url, host_of, origin, redact
from neuromirror.net.waits import Limits, shown_wait, wait_of

_DETAIL_BYTES: Final = 1 << 16
_DETAIL_SHOWN: Final = 300
_URL_SHOWN: Final = 4000
"""More than the longest key of a bucket takes; a server may redirect to whatever it likes."""
_TOKEN_LENGTH: Final = 6
"""What is shorter would be found inside ordinary words."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PASSING: Final = frozenset({500, 502, 503, 504, 520, 521, 522, 523, 524, 529})

_SLOW_DOWN: Final = "SlowDown"
"""What S3 says with 503 where others say 429."""

_PRINTED: Final = re.compile(r"[!-~]+")

T = TypeVar("T")


def _worth_another_try(error: BaseException) -> bool:
    return isinstance(error, NetError) and error.passing


class Session:
    """Asks archives; shared by threads.

    ``tokens`` maps the origin of an API (``https://api.dandiarchive.org``) to the name of the
    environment variable that holds its token; the token goes to that origin only, never along a
    redirect elsewhere. ``allow_private`` lets loopback and private addresses be asked (link-local
    ones never are); ``private_at`` says it of a host and port instead, at each redirect too, and
    ``private_hint`` says what lets one. ``contact`` is the address in the agent string.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        tokens: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        contact: str | None = None,
        private_at: Callable[[str, int], bool] | None = None,
        private_hint: Callable[[str], str] = mirror_hint,
    ) -> None:
        self.allow_private = allow_private
        self.private_hint = private_hint
        self.private_at = private_at or (lambda host, port: allow_private)
        self.limits = limits or Limits()
        self._named = dict(tokens or {})
        self._contact = contact
        self._tokens = {origin(url): name for url, name in self._named.items()}
        declare_secrets(self._tokens.values())
        self._deadline = Deadline(threading.Event())
        self._turns: dict[tuple[str, str, int], Turns] = {}
        self._turns_lock = threading.Lock()
        self._http = requests.Session()
        self._http.trust_env = False  # no credentials from netrc; proxies are looked up below
        self._http.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._http.headers["User-Agent"] = agent(contact)
        adapter = GuardedAdapter(
            private_at=self.private_at,
            private_hint=private_hint,
            deadline=self._deadline,
            connections=self.limits.per_host,
        )
        for scheme in ("http://", "https://"):
            self._http.mount(scheme, adapter)

    def politely(self, manners: Manners) -> Session:
        """A session like this one that asks as an operator wants it."""
        limits = manners.applied_to(self.limits)
        return self._like(limits, tokens=self._named, contact=manners.contact)

    def anonymous(self) -> Session:
        """A session like this one that has no tokens; hosts are not asked more often for that."""
        made = self._like(self.limits)
        made._turns, made._turns_lock = self._turns, self._turns_lock
        return made

    def _like(self, limits: Limits, **other: Any) -> Session:
        other["contact"] = other.get("contact") or self._contact
        other |= {"private_at": self.private_at, "private_hint": self.private_hint}
        return Session(allow_private=self.allow_private, limits=limits, **other)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the kept connections."""
        self._http.close()

    def abort(self) -> None:
        """Make requests with a deadline fail at the next bytes that come, in every thread."""
        self._deadline.aborted.set()

    def redact(self, text: str) -> str:
        """A text without signed queries, credentials and this session's own tokens."""
        for name in self._tokens.values():
            token = os.environ.get(name, "").strip()
            if len(token) >= _TOKEN_LENGTH:
                text = text.replace(token, "***")
        return redact(text)

    def get_json(
        self,
        url: str,
        params: Mapping[str, str | int] | None = None,
        *,
        attempts: int | None = None,
        received: Callable[[int], object] | None = None,
    ) -> Any:
        """The value of a JSON reply; redirects are followed, passing troubles tried again.

        ``attempts`` overrides the session's limit; ``received`` may refuse the size of a body.
        """

        def ask() -> Any:
            with (
                self._deadline.within(self.limits.total),
                self._open("GET", url, params, accept="application/json", coding="gzip") as reply,
            ):
                shown = self._shown(reply.url)
                self._check(reply, shown)
                body = read_bounded(reply, shown, self.limits.json_bytes)
            if received is not None:
                received(len(body))
            return parse_json(body, reply.headers.get("Content-Type", ""), shown)

        return self._retrying(ask, url, attempts)

    def get_bytes(
        self,
        url: str,
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        accept: str = "*/*",
        then: Callable[[Body], T],
    ) -> T:
        """What ``then`` makes of a whole body of at most ``limit`` bytes.

        ``url`` goes out as it is written. Troubles that may pass are tried again, those that
        ``then`` finds too, because a body that makes no sense may have been cut on the way.
        Raises a :class:`NetError`.
        """

        def ask() -> T:
            with (
                self._deadline.within(self.limits.total),
                self._open(
                    "GET", url, None, accept=accept, coding="identity", headers=headers
                ) as reply,
            ):
                shown = self._shown(reply.url)
                self._check(reply, shown)
                body = read_bounded(reply, shown, limit)
                return then(Body(reply.status_code, dict_of(reply.headers), body))

        return self._retrying(ask, url)

    def head(
        self, url: str, *, redirects: int = 0, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Status and headers as they are, for any status but 429 and passing server troubles.

        Redirects are not followed unless asked for; the reply is then a 3xx.
        """

        def ask() -> Reply:
            with (
                self._deadline.within(self.limits.total),
                self._open(
                    *("HEAD", url, None),
                    accept="*/*",
                    coding="identity",
                    redirects=redirects,
                    headers=headers,
                ) as reply,
            ):
                if reply.status_code == 429 or reply.status_code in _PASSING:
                    self._check(reply, self._shown(reply.url))
                # Only a reply read to its end gives its connection back; the headers are here.
                with suppress(TransportError, OSError):
                    reply.raw.read(1, decode_content=False)
                return Reply(reply.status_code, dict_of(reply.headers))

        return self._retrying(ask, url)

    @contextmanager
    def stream(
        self,
        url: str,
        *,
        total: float | None = None,
        headers: Mapping[str, str] | None = None,
        redirects: int | None = None,
        attempts: int | None = None,
    ) -> Iterator[Stream]:
        """An open reply whose chunks are the stored bytes (no transfer compression is asked for).

        Opening is tried again after passing troubles, reading is not. Each wait is bounded; the
        whole only by ``total`` seconds, because files may be large. A place among the host's
        connections is held until the end. ``headers`` go wherever a redirect leads; ``redirects``
        and ``attempts`` override the session's limits; with 0 ``redirects`` one is an HttpError.
        """
        most = self.limits.redirects if redirects is None else redirects

        def ask() -> requests.Response:
            with self._deadline.within(total):
                reply = self._follow("GET", url, None, "*/*", "identity", most, headers)
                try:
                    self._check(reply, self._shown(reply.url))
                except NetError:
                    reply.close()
                    raise
            return reply

        with self._turn(url), self._retrying(ask, url, attempts) as reply:
            shown = self._shown(reply.url)
            yield Stream(reply.status_code, dict_of(reply.headers), raw_chunks(reply, shown))

    def _retrying(self, ask: Callable[[], T], url: str, attempts: int | None = None) -> T:
        def tell(state: RetryCallState) -> None:
            waited = 0.0 if state.next_action is None else state.next_action.sleep
            count(host_of(url), Traffic(retries=1, waited=waited))

        again = Retrying(
            stop=stop_after_attempt(attempts or self.limits.attempts),
            retry=retry_if_exception(_worth_another_try),
            wait=self._wait,
            before_sleep=tell,
            reraise=True,
        )
        return again(ask)

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        most = min(self.limits.wait_max, self.limits.wait * 2 ** (state.attempt_number - 1))
        seconds: float = random.uniform(most / 2, most)
        return max(seconds, getattr(error, "retry_after", None) or 0.0)

    @contextmanager
    def _open(
        self,
        method: str,
        url: str,
        params: Mapping[str, str | int] | None,
        *,
        accept: str,
        coding: str,
        redirects: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[requests.Response]:
        most = self.limits.redirects if redirects is None else redirects
        with self._turn(url):
            reply = self._follow(method, url, params, accept, coding, most, headers)
            with reply:
                yield reply

    @contextmanager
    def _turn(self, url: str) -> Iterator[None]:
        """One of the connections that may be at a host at a time."""
        with self._turns_at(self._place(url)).place() as waited:
            self._deadline.put_off(waited)
            yield

    def _turns_at(self, place: tuple[str, str, int]) -> Turns:
        with self._turns_lock:
            found = self._turns.get(place)
            if found is None:
                found = Turns(self.limits.per_host, self.limits.per_second)
                self._turns[place] = found
            return found

    def _place(self, url: str) -> tuple[str, str, int]:
        """Scheme, host and port; raises UnsafeAddress for what is no http(s) address."""
        try:
            return origin(url)
        except ValueError as error:
            raise UnsafeAddress(
                f"{self._shown(url)} is not asked: only http and https addresses are",
                url=self._shown(url),
            ) from error

    def _redirected(self, here: str, target: str) -> str:
        """The address that a reply redirects to; raises UnsafeAddress for what is none."""
        try:
            return urljoin(here, target)
        except ValueError:
            shown = self._shown(here)
            raise UnsafeAddress(
                f"{shown} redirects to {redact(target[:200])!r}, which is no address", url=shown
            ) from None

    def _follow(
        self,
        method: str,
        url: str,
        params: Mapping[str, str | int] | None,
        accept: str,
        coding: str,
        most: int,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """The first reply that is no redirect; each hop is checked like the first."""
        first = self._shown(url)
        for hop in range(most + 1):
            reply = self._once(method, url, params if hop == 0 else None, accept, coding, headers)
            target = reply.headers.get("Location")
            if reply.status_code not in _REDIRECTS or target is None or most == 0:
                return reply
            here = reply.url
            reply.close()
            url = self._redirected(here, target)
        endless = Unreachable(f"{first} redirects more than {most} times", url=first)
        endless.passing = False
        raise endless

    def _once(
        self,
        method: str,
        url: str,
        params: Mapping[str, str | int] | None,
        accept: str,
        coding: str,
        extra: Mapping[str, str] | None = None,
    ) -> requests.Response:
        place = self._place(url)
        shown = self._shown(url)
        parts = urlsplit(url)
        # Credentials in an address would be sent, and recorded by others, as they are.
        bare = urlunsplit(
            (parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, "")
        )
        proxies = requests.utils.get_environ_proxies(bare)
        if proxies.get(place[0]) or proxies.get("all"):
            private = self.private_at(*place[1:])
            refuse_behind_proxy(place[1], shown, allow_private=private)
        headers = {
            **{"Accept": accept, "Accept-Encoding": coding},
            **(extra or {}),
            **self._authorization(place),
        }
        try:
            asked = self._http.prepare_request(
                requests.Request(method, bare, params=dict(params or {}), headers=headers)
            )
            if not params and _PRINTED.fullmatch(bare):
                # requests would take "up/../x" for "x"; in a store of objects these are two.
                asked.url = bare
            self._turns_at(place).check()
            self._deadline.put_off(self._turns_at(place).pace())
            count(host_of(bare), Traffic(requests=1))
            return self._http.send(
                asked,
                timeout=(self.limits.connect, self.limits.read),
                allow_redirects=False,
                stream=True,
                proxies=dict(proxies),
                verify=os.environ.get("REQUESTS_CA_BUNDLE")
                or os.environ.get("CURL_CA_BUNDLE")
                or True,
            )
        except UnsafeAddress as error:
            raise UnsafeAddress(str(error), url=shown, never=error.never) from None
        except requests.exceptions.Timeout:
            raise TimedOut(f"{shown} did not answer in time; try again", url=shown) from None
        # requests parses where a reply redirects to, and lets that fail as it may
        except (requests.exceptions.RequestException, ValueError) as error:
            why = self.redact(innermost(error))[:_DETAIL_SHOWN]
            raise Unreachable(f"{shown} cannot be reached: {why}", url=shown) from None

    def _authorization(self, place: tuple[str, str, int]) -> dict[str, str]:
        name = self._tokens.get(place)
        token = os.environ.get(name, "").strip() if name else ""
        if not token:
            return {}
        if not token.isascii() or not token.isprintable():
            raise ConfigurationError(
                f"the environment variable {name} holds something that cannot be a token"
            )
        return {"Authorization": f"token {token}"}

    def _shown(self, url: str) -> str:
        try:
            shown = self.redact(clean_url(url))
            return shown if len(shown) <= _URL_SHOWN else f"{shown[:_URL_SHOWN]}…"
        except ValueError:
            return "<an address that is no URL>"

    def _check(self, reply: requests.Response, shown: str) -> None:
        """Raises the error that the status stands for, if any."""
        status = reply.status_code
        if 200 <= status < 300:
            return
        detail, fields = self._detail(reply, shown)
        words = detail or ": ".join(filter(None, map(fields.get, ("Code", "Message"))))
        said = f": {words}" if words else ""
        named: dict[str, Any] = {
            **{"url": shown, "status": status},
            **{"detail": detail, "fields": fields},
        }
        if status in (404, 410):
            raise NotFound(f"{shown} is not there (HTTP {status}){said}", **named)
        if status in (401, 403):
            raise Forbidden(self._refused(reply, shown, status) + said, **named)
        if status == 429 or status in _PASSING:
            asked = wait_of(reply.headers, detail)
            slower = status == 503 and (asked is not None or fields.get("Code") == _SLOW_DOWN)
            if status == 429 or slower:
                count(host_of(reply.url), Traffic(throttled=1))
            if asked is not None and asked > self.limits.retry_after_max:
                late = RetryAfterTooLong(
                    f"{shown} (HTTP {status}) asks to wait {shown_wait(asked, detail)}: longer than"
                    f" {self.limits.retry_after_max:.0f} seconds{said}; run again later",
                    **named,
                )
                late.retry_after = asked
                self._turns_at(self._place(reply.url)).close(asked, late)
                raise late
            kind: type[TooManyRequests | ServerTrouble]
            kind = TooManyRequests if status == 429 else ServerTrouble
            what = "too many requests" if status == 429 else "trouble on the server"
            passing = kind(f"{shown}: {what} (HTTP {status}){said}; try again later", **named)
            passing.retry_after = asked
            raise passing
        raise HttpError(f"{shown} answered HTTP {status}{said}", **named)

    def _refused(self, reply: requests.Response, shown: str, status: int) -> str:
        name = self._tokens.get(origin(reply.url))
        if name is None:
            return f"{shown} refuses access (HTTP {status}); no token is configured for it"
        if "Authorization" not in reply.request.headers:
            return f"{shown} needs a token (HTTP {status}); set the environment variable {name}"
        return (
            f"{shown} refuses the token in the environment variable {name} (HTTP {status}):"
            " it may have expired or lack the right"
        )

    def _detail(self, reply: requests.Response, shown: str) -> tuple[str | None, Mapping[str, str]]:
        try:
            body = read_bounded(reply, shown, _DETAIL_BYTES)
        except NetError:
            return None, {}
        fields = error_fields(body, reply.headers)
        fields = {name: self.redact(text)[:_DETAIL_SHOWN] for name, text in fields.items()}
        try:
            said = json.loads(body)
        except (ValueError, RecursionError):
            return None, fields
        if isinstance(said, dict):
            # a BOSS gives a code too; a message alone may come from a gateway on the way
            said = said.get("message" if "code" in said else "detail")
        return self.redact(said)[:_DETAIL_SHOWN] if isinstance(said, str) else None, fields
