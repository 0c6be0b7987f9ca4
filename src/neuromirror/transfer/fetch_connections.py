"""The connections of one download thread: to any URL, and to buckets whose requests are signed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from neuromirror.model import NeuromirrorError
from neuromirror.net import (
    AccessDeniedError,
    ConnectionFactory,
    PersistentConnection,
    S3Bucket,
    Session,
)
from neuromirror.transfer.s3_access import SCHEME, S3Access
from neuromirror.transfer.url_sessions import UrlSessions


class FetchTarget(Struct, frozen=True):
    """The request for a URL of a file.

    Attributes
    ----------
    connection
        The connection to use.
    url
        The URL to request.
    headers
        Additional headers.
    explain
        Returns the message for a failed request, without secrets.
    session
        The session of a plain URL at present.
    """

    connection: PersistentConnection
    url: str
    headers: Mapping[str, str]
    explain: Callable[[NeuromirrorError], str]
    session: Session | None = None


class FetchConnections:
    """The connections of one thread.

    Parameters
    ----------
    sessions
        The sessions for plain URLs.
    s3
        The buckets of ``s3://`` URLs. Each has a connection of its own, so that no other URL, such
        as the target of a redirect, is requested with its credentials.
    headers
        Headers for requests of plain URLs.
    """

    def __init__(self, sessions: UrlSessions, s3: S3Access, headers: Mapping[str, str]) -> None:
        self._sessions = sessions
        self._s3 = s3
        self._headers = headers
        self._plain = ConnectionFactory(sessions.session_for).new_connection()
        self._buckets: dict[S3Bucket, PersistentConnection] = {}
        self._aborted = False

    def target(self, url: str) -> FetchTarget:
        """Return the connection and the request for a URL.

        Raises
        ------
        CredentialsError
            There are no credentials for the bucket of the URL.
        NetError
            The region of the bucket cannot be determined.
        MalformedS3UrlError
            It is no URL of an object.
        """
        if not url.startswith(f"{SCHEME}:"):
            session = self._sessions.session_for(url)
            return FetchTarget(self._plain, url, self._headers, str, session)
        found = self._s3.object_with_credentials(url)
        connection = self._buckets.get(found.bucket)
        if connection is None:
            session = found.session
            connection = ConnectionFactory(lambda url: session).new_connection()
            self._buckets[found.bucket] = connection
            if self._aborted:
                connection.abort()
        return FetchTarget(connection, found.url, {}, found.explain)

    def authorize(self, url: str, target: FetchTarget, error: AccessDeniedError) -> bool:
        """Return whether a refused request of a URL can be repeated, with the token for its host.

        A request that already had the token is not repeated.

        Raises
        ------
        CredentialsError
            The token cannot be read, or is required and not set.
        """
        if target.session is None:
            return False
        return self._sessions.authorize(url, target.session, is_required=error.status == 401)

    def explain(self, url: str, error: NeuromirrorError) -> str:
        """Return the message of an error of a URL."""
        try:
            return self.target(url).explain(error)
        except NeuromirrorError:
            return str(error)

    def abort(self) -> None:
        """Make the current and all further requests fail. Callable from any thread."""
        self._aborted = True
        for connection in (self._plain, *self._buckets.copy().values()):
            connection.abort()

    def close(self) -> None:
        """Close the idle connections."""
        for connection in (self._plain, *self._buckets.values()):
            connection.close()
