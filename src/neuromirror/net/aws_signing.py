"""AWS credentials from botocore's chain, and the signatures of requests to one bucket.

botocore finds the credentials (environment, profiles, SSO, ``credential_process``, instance roles)
and computes the signature (Signature Version 4). The requests are sent by
:class:`~neuromirror.net.Session`, which asks for a signature per request and per redirect hop.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes, urlsplit, urlunsplit

from neuromirror.net.errors import CredentialsError
from neuromirror.net.urls import origin

_USUAL_REGION: Final = "us-east-1"
_UNRESERVED: Final = "-_.~"
_OWN_MESSAGE: Final = ("PartialCredentialsError", "InvalidConfigError")
"""Errors of botocore whose message names settings, but no value."""

_MALFORMED: Final = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)
"""Errors that botocore does not catch, from unreadable or malformed files and program output."""


class AwsSigner:
    """Signs the requests to one bucket. Thread-safe; the credentials are loaded on first use.

    Parameters
    ----------
    base_url
        The URL below which the bucket's objects are. Requests to other URLs are not signed.
    region
        The region in the signature.
    profile
        A profile of ``~/.aws/config``; None for the one that botocore selects.
    requester_pays
        Whether to accept that the account of the credentials pays for the requests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        region: str,
        profile: str | None = None,
        requester_pays: bool = False,
    ) -> None:
        self._origin = origin(base_url)
        self._path = urlsplit(base_url).path
        self._region = region
        self._profile = profile
        self.requester_pays = requester_pays
        self._lock = threading.Lock()
        self._credentials: Any = None

    @property
    def identity(self) -> str:
        """The credentials' name in messages: a profile's, or that of the default chain."""
        return _identity(self._profile)

    def covers(self, url: str) -> bool:
        """Return whether requests to a URL are signed: only those for the bucket itself.

        Parameters
        ----------
        url
            The URL of a request.

        Returns
        -------
        bool
            False for another origin or path, and for an invalid URL.
        """
        try:
            return origin(url) == self._origin and urlsplit(url).path.startswith(self._path)
        except ValueError:
            return False

    def check(self) -> None:
        """Load the credentials.

        Raises
        ------
        CredentialsError
            If there are none, or they cannot be read or renewed.
        """
        self._frozen_credentials()

    def sign(
        self, method: str, url: str, headers: Mapping[str, str], sha256: str | None = None
    ) -> dict[str, str]:
        """Return the headers that authenticate a request.

        Only the host and the ``x-amz-`` headers are signed, because a proxy may change others.

        Parameters
        ----------
        method
            The HTTP method.
        url
            The URL of the request.
        headers
            The other headers of the request.
        sha256
            The sha256 of the body in hex; None for a request without a body.

        Returns
        -------
        dict of str to str
            The headers to add, with ``Authorization``.

        Raises
        ------
        CredentialsError
            If there are no valid credentials.

        Notes
        -----
        AWS Signature Version 4, as botocore implements it.
        """
        credentials = self._frozen_credentials()
        from botocore.auth import S3SigV4Auth  # type: ignore[import-untyped]
        from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]

        signed = {name: one for name, one in headers.items() if name.lower().startswith("x-amz-")}
        if self.requester_pays:
            signed["x-amz-request-payer"] = "requester"
        request = AWSRequest(method=method, url=_canonical_url(url), headers=signed)
        auth = S3SigV4Auth(credentials, "s3", self._region)
        if sha256 is not None:
            auth.payload = lambda _request: sha256  # known, so that botocore need not compute it
        auth.add_auth(request)
        return dict(request.headers.items())

    def _frozen_credentials(self) -> Any:
        """Return credentials that are valid now; botocore renews those that expire."""
        with self._lock, _explained_errors(self._profile):
            if self._credentials is None:
                self._credentials = new_aws_session(self._profile).get_credentials()
            if self._credentials is None:
                raise CredentialsError(
                    f"{self.identity}: botocore finds no credentials; set AWS_PROFILE or"
                    " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run 'aws configure'",
                    identity=self.identity,
                )
            return self._credentials.get_frozen_credentials()


def aws_endpoint(profile: str | None) -> tuple[str | None, str | None]:
    """Return the S3 endpoint and the region that a profile or the environment configures.

    Parameters
    ----------
    profile
        The name of a profile in the AWS configuration; None for the default.

    Returns
    -------
    tuple[str | None, str | None]
        The URL of the endpoint and the name of the region; None if not configured.

    Raises
    ------
    CredentialsError
        If the configuration cannot be read.
    """
    with _explained_errors(profile):
        from botocore import UNSIGNED  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        session = new_aws_session(profile)
        client = session.create_client(
            "s3",
            region_name=session.get_config_variable("region") or _USUAL_REGION,
            config=Config(signature_version=UNSIGNED),
        )
        endpoint: str | None = client.meta.endpoint_url
        region: str | None = session.get_config_variable("region")
    return endpoint, region


def new_aws_session(profile: str | None) -> Any:
    """Return a session of botocore that logs no secrets.

    Parameters
    ----------
    profile
        The name of a profile in the AWS configuration; None for the default.

    Returns
    -------
    botocore.session.Session
        The session.
    """
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
    from botocore.session import Session  # type: ignore[import-untyped]

    # At the level DEBUG botocore logs signed headers and the replies of credential services.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    session = Session(profile=profile)
    # a missing profile is reported when the credentials are read
    with suppress(BotoCoreError):
        path = session.get_config_variable("data_path")
        session.register_component("data_loader", _data_loader(path))
    return session


@cache
def _data_loader(path: str | None) -> Any:
    """Return a loader of botocore's data for all sessions, each of which would parse them again."""
    from botocore.loaders import create_loader  # type: ignore[import-untyped]

    return create_loader(path)


def _identity(profile: str | None) -> str:
    return "the default AWS credentials" if profile is None else f"the AWS profile '{profile}'"


@contextmanager
def _explained_errors(profile: str | None) -> Iterator[None]:
    """Raise botocore's errors about credentials as CredentialsError.

    Messages of botocore may quote a secret, and so may those of their causes.
    """
    try:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]
    except ImportError as error:
        raise _explain(profile, error) from None
    try:
        yield
    except (BotoCoreError, ClientError, ResponseParserError, *_MALFORMED) as error:
        raise _explain(profile, error) from None


def _explain(profile: str | None, error: Exception) -> CredentialsError:
    kind = type(error).__name__
    login = f"aws sso login{'' if profile is None else f' --profile {profile}'}"
    remedy = {
        "ProfileNotFound": "there is no such profile in ~/.aws/config or ~/.aws/credentials; "
        "'aws configure list-profiles' lists all profiles",
        "UnauthorizedSSOTokenError": f"the SSO session has expired; run '{login}'",
        "SSOTokenLoadError": f"there is no SSO session; run '{login}'",
        "TokenRetrievalError": f"the SSO session cannot be renewed; run '{login}'",
        "LoginRefreshRequired": "the login session has expired; run 'aws login'",
        "CredentialRetrievalError": "the credential_process or role of the profile failed; run"
        f" 'aws sts get-caller-identity"
        f"{'' if profile is None else f' --profile {profile}'}' to see why",
        "ModuleNotFoundError": "signed requests need the package botocore: pip install boto3",
        "ConfigParseError": "~/.aws/config or ~/.aws/credentials cannot be parsed",
    }.get(kind)
    if remedy is None:
        detail = f": {error}" if kind in _OWN_MESSAGE else ""
        remedy = f"the credentials cannot be read ({kind}{detail})"
    return CredentialsError(
        f"{_identity(profile)}: {remedy}", identity=_identity(profile), cause_name=kind
    )


def _canonical_url(url: str) -> str:
    """Return a URL with path and query encoded as in the canonical request.

    The servers decode the key and encode it again, so ``%2E`` in a requested path is ``.`` here.
    """
    parts = urlsplit(url)
    path = quote(unquote_to_bytes(parts.path), safe=f"/{_UNRESERVED}")
    fields = [field.partition("=") for field in parts.query.split("&") if field]
    query = "&".join(
        f"{quote(unquote_to_bytes(name), safe=_UNRESERVED)}"
        f"={quote(unquote_to_bytes(value), safe=_UNRESERVED)}"
        for name, _, value in fields
    )
    return urlunsplit((parts.scheme, parts.netloc, path or "/", query, ""))
