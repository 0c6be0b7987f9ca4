"""A versioned, public S3 bucket: moto's S3 behind plain HTTP on loopback.

Objects are put straight into moto's store, in this process, so that version ids and times are
the archive's own. moto's store is one for the whole process and a bucket's name is unique in
it; so each demo archive has a bucket of its own in there, and requests for the public name are
passed on to it.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

BUCKET = "demo-dandiarchive"
"""The public name."""

_ACCOUNT = "123456789012"


class Bucket:
    """The bucket, and the WSGI application that serves it path-style."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from moto.s3.models import get_canned_acl, s3_backends

        self._backend = s3_backends[_ACCOUNT]["aws"]
        self._name = f"{BUCKET}-{uuid.uuid4().hex[:12]}"
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._denied: set[str] = set()
        self._puts = 0
        self._backend.create_bucket(self._name, "us-east-1")
        self._public = get_canned_acl("public-read")
        self._backend.put_bucket_acl(self._name, self._public)
        self._backend.put_bucket_versioning(self._name, "Enabled")

    def put(
        self, key: str, data: bytes, *, etag: str, content_type: str, modified: datetime
    ) -> str:
        """Store an object with this ETag; returns its version id."""
        self._puts += 1
        kept = self._backend.put_object(self._name, key, data, etag=etag, disable_notification=True)
        version = hashlib.sha256(f"{self._puts} {key}".encode()).hexdigest()[:32]
        kept._version_id = version
        kept.acl = self._public
        kept.last_modified = modified.replace(tzinfo=None)
        kept.set_metadata({"Content-Type": content_type})
        return version

    def overwrite(self, key: str, version_id: str, data: bytes) -> None:
        """Give a version other bytes; its ETag, id and time stay."""
        kept = self._backend.get_object(self._name, key, version_id=version_id)
        if kept is not None:
            kept.value = data  # type: ignore[misc]

    def delete(self, key: str) -> None:
        """Hide the object behind a delete marker; its versions stay readable."""
        self._backend.delete_object(self._name, key)

    def deny(self, keys: Iterable[str]) -> None:
        """Refuse these keys to anonymous readers (403), as for embargoed bytes."""
        self._denied.update(keys)

    def allow(self, keys: Iterable[str]) -> None:
        """Take back :meth:`deny`."""
        self._denied.difference_update(keys)

    def close(self) -> None:
        """Drop all objects."""
        bucket = self._backend.get_bucket(self._name)
        for versions in bucket.keys.lists():
            for one in versions:
                if hasattr(one, "dispose"):
                    one.dispose()
        bucket.keys.clear()
        self._backend.delete_bucket(self._name)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        path = environ["PATH_INFO"]
        public = f"/{BUCKET}"
        if path != public and not path.startswith(f"{public}/"):
            return _error(404, "NoSuchBucket")(environ, start_response)
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return _error(403, "AccessDenied")(environ, start_response)
        signed = "X-Amz-Signature=" in environ.get("QUERY_STRING", "")
        if path[len(public) + 1 :] in self._denied and not signed:
            return _error(403, "AccessDenied")(environ, start_response)
        inner: dict[str, Any] = dict(environ)
        inner["PATH_INFO"] = f"/{self._name}{path[len(public) :]}"
        for name in ("RAW_URI", "REQUEST_URI"):
            if name in inner:
                inner[name] = inner[name].replace(public, f"/{self._name}", 1)
        response = Response.from_app(self._moto, inner, buffered=True)
        if response.mimetype == "application/xml" and environ["REQUEST_METHOD"] == "GET":
            response.set_data(response.get_data().replace(self._name.encode(), BUCKET.encode()))
        return response(environ, start_response)


def _error(status: int, code: str) -> Response:

    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code></Error>'
    return Response(text, status=status, mimetype="application/xml")
