"""Comparison of a reply's headers with the known size and checksums of a file."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from neuromirror.annex import url_key
from neuromirror.model import Digest, Evidence
from neuromirror.model.object_urls import url_version_id
from neuromirror.net.responses import has_encrypted_etag
from neuromirror.transfer.findings import Health
from neuromirror.transfer.key_checksums import KeyChecksum

_MD5: Final = re.compile(r"[0-9a-f]{32}\Z")
_MULTIPART: Final = re.compile(r"[0-9a-f]{32}-[0-9]{1,5}\Z")
_RANGE: Final = re.compile(r"bytes (?:[0-9]+-[0-9]+|\*)/([0-9]{1,19})\Z")


class ProbeResult(NamedTuple):
    """The result of probing a URL.

    Attributes
    ----------
    health
        The state of the URL.
    message
        The reason, for the user.
    evidence
        The strongest header that matches; None without one.
    """

    health: Health
    message: str
    evidence: Evidence | None = None


class KnownDigests:
    """The known checksums and size of one file, to compare with the headers of a reply.

    Parameters
    ----------
    key
        Annex key.
    proof
        Checksum and size in the key, which take precedence.
    digests
        Checksums from other sources.
    """

    def __init__(self, key: str, proof: KeyChecksum, digests: Iterable[Digest] = ()) -> None:
        self.key = key
        self.size = proof.size
        self._values: dict[str, set[str]] = {}
        for digest in digests:
            self._add(digest.algorithm, digest.value)
        self._add(proof.algorithm, proof.value)
        if proof.algorithm in ("md5", "etag", "sha256"):
            # the key's checksum overrides those from other sources
            self._values[proof.algorithm] = {proof.value}

    def _add(self, algorithm: str, value: str) -> None:
        # multipart ETags are comparable only with those of the same number of parts
        name = f"etag-{value.partition('-')[2]}" if algorithm == "etag" and "-" in value else ""
        self._values.setdefault(name or algorithm, set()).add(value)

    def add_object_version(self, headers: Mapping[str, str]) -> None:
        """Add the ETag of an object version, which is immutable, as a known checksum."""
        etag = _etag(headers)
        if _MULTIPART.match(etag):
            self._add("etag", etag)
        elif _MD5.match(etag) and not has_encrypted_etag(headers):
            self._add("md5", etag)

    def contradiction(self, algorithm: str, value: str) -> str | None:
        """Return the known values if ``value`` contradicts them.

        None if it matches, or if none are known.
        """
        name = f"etag-{value.partition('-')[2]}" if algorithm == "etag" else algorithm
        known = self._values.get(name)
        return None if known is None or value in known else ", ".join(sorted(known))

    def has_value(self, algorithm: str, value: str) -> bool:
        """Return whether this value is known."""
        name = f"etag-{value.partition('-')[2]}" if algorithm == "etag" else algorithm
        return value in self._values.get(name, ())


def compare_headers(
    url: str, headers: Mapping[str, str], known: KnownDigests, *, is_only_url: bool
) -> ProbeResult:
    """Compare the headers of a successful reply with the known size and checksums.

    Parameters
    ----------
    url
        The requested URL.
    headers
        Headers of the reply.
    known
        Size and checksums of the file.
    is_only_url
        Whether the file has no other URL. A git-annex VURL key may contain an ETag without stating
        of which URL; it is compared only if there is one URL.

    Returns
    -------
    ProbeResult
        Whether the headers agree with the known values, and with which of them.
    """
    size = stated_size(headers)
    if size is not None and known.size is not None and size != known.size:
        return ProbeResult(Health.CHANGED, f"the size is now {size} bytes, expected {known.size}")
    version, returned_version = url_version_id(url), headers.get("x-amz-version-id")
    if version is not None and returned_version is not None and returned_version != version:
        return ProbeResult(
            Health.CHANGED, f"the object version is {returned_version}, expected {version}"
        )
    best: Evidence | None = None if size is None or known.size is None else Evidence.SIZE
    for algorithm, value in _checksums(headers):
        instead = known.contradiction(algorithm, value)
        if instead is not None:
            return ProbeResult(
                Health.CHANGED, f"the {algorithm} is now {value}, expected {instead}"
            )
        if known.has_value(algorithm, value):
            best = Evidence(algorithm)
    etag = _etag(headers)
    if is_only_url and etag and known.key.startswith("VURL"):
        if known.key == url_key(f"{url}#{etag}", known.size):
            return ProbeResult(Health.OK, "the ETag is unchanged since the listing", best)
        if known.key != url_key(url, known.size):
            return ProbeResult(
                Health.CHANGED, f"the ETag is now {etag} and differs from the listed one"
            )
    message = "the reply states neither size nor checksum" if best is None else ""
    return ProbeResult(Health.OK, message, best)


def stated_size(headers: Mapping[str, str]) -> int | None:
    """Return the size of the whole file in bytes, None if the headers do not state it."""
    part = _RANGE.match(headers.get("Content-Range", ""))
    stated = part[1] if part else headers.get("Content-Length", "")
    return int(stated) if stated.isdecimal() and len(stated) < 20 else None


def _checksums(headers: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Yield the checksums of the whole content, weakest first."""
    etag = _etag(headers)
    if _MULTIPART.match(etag):
        yield "etag", etag
    elif _MD5.match(etag) and not has_encrypted_etag(headers):
        yield "md5", etag
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") == "FULL_OBJECT":
        try:
            raw = base64.b64decode(headers.get("x-amz-checksum-sha256", ""), validate=True)
        except (binascii.Error, ValueError):
            return
        if len(raw) == 32:
            yield "sha256", raw.hex()


def _etag(headers: Mapping[str, str]) -> str:
    return headers.get("ETag", "").strip('"')
