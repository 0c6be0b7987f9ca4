"""Send a JSON document to a URL that is a secret, such as the webhook of a chat program."""

from __future__ import annotations

import threading
from typing import Any, Final
from urllib.parse import urlsplit

from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.net.errors import UnsafeAddressError
from neuromirror.net.request_limits import Deadline

_SECONDS: Final = 30.0


class WebhookError(NeuromirrorError):
    """A webhook did not accept a document.

    The message contains only the host: the rest of the URL is a secret.
    """


def webhook_host(url: str) -> str:
    """Return the host of a webhook.

    Parameters
    ----------
    url
        The URL of the webhook.

    Returns
    -------
    str
        The host, with its port if the URL has one; safe to show, unlike the URL.

    Raises
    ------
    ConfigurationError
        The text is not an http or https URL with a host, or has user and password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    is_printable = url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or not is_printable:
        raise ConfigurationError(
            "the URL of the webhook is not valid; write http(s)://HOST[:PORT]/PATH, without a user "
            "and a password"
        )
    return host if port is None else f"{host}:{port}"


def post_json(url: str, content: Any, *, allow_private: bool) -> None:
    """Send a document with POST; redirects are not followed, and no proxy is used.

    Parameters
    ----------
    url
        The URL of the webhook.
    content
        The document, which is sent as JSON.
    allow_private
        Whether the host may be this machine or in a private network.

    Raises
    ------
    WebhookError
        The server is not reachable, its address is refused, or it did not return 2xx.
    ConfigurationError
        The URL is invalid.
    """
    import requests

    from neuromirror.net.guarded_connections import guarded_session

    host = webhook_host(url)
    deadline = Deadline(threading.Event())
    session = guarded_session(
        is_private_allowed=lambda _host, _port: allow_private,
        private_hint=lambda _address: "to allow it, use --allow-private",
        deadline=deadline,
        connections=1,
    )
    with session, deadline.within(_SECONDS):
        try:
            reply = session.post(
                url, json=content, timeout=_SECONDS, allow_redirects=False, stream=True
            )
            status = reply.status_code
            reply.close()
        except UnsafeAddressError as error:
            raise WebhookError(f"the webhook at {error}") from None
        except requests.exceptions.SSLError:
            raise WebhookError(f"the webhook at {host}: its TLS certificate is not valid") from None
        except (requests.RequestException, OSError) as error:
            # the text of such an error contains the whole URL
            raise WebhookError(
                f"the webhook at {host} is not reachable ({type(error).__name__})"
            ) from None
    if not 200 <= status < 300:
        raise WebhookError(f"the webhook at {host} returned HTTP {status}")
