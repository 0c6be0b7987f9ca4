"""Selection of sidecars, and removal of secrets and volatile members from them.

Everything else stays byte for byte. JSON is not serialized again, so numbers, spaces and the order
of members stay as upstream wrote them.
"""

from __future__ import annotations

import json
import re
from bisect import insort
from collections.abc import Collection
from typing import Final

from neuromirror.net import ObjectRow, SignedUrlPattern, clean_url

MAX_DOCUMENT_BYTES: Final = 4 * 2**20
"""Maximum bytes of a document; a larger one is an ordinary file."""
MAX_DOCUMENTS: Final = 256
MAX_TOTAL_BYTES: Final = 64 * 2**20
"""Maximum bytes of all documents of a dataset."""

_PLAIN: Final = re.compile(
    rb"(?:[A-Za-z0-9_-](?:[A-Za-z0-9_.,+= ()-]*[A-Za-z0-9_,+=()-])?"
    rb"|\.z(?:array|attrs|group|metadata))\Z"
)
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_TEXT: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SIGNED: Final = SignedUrlPattern(
    r"\b(?:https?|s3|ftp)",
    r"x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid|googleaccessid"
    r"|signature|sig|access_token|auth_token|token|key-pair-id",
    marks="?&#",
)
_PASSWORD_URL: Final = re.compile(
    r"(?i)(?<=[a-z0-9+.-])(://)[^\s/'\"<>@:]*:(?![0-9]+[/?#])(?:(?!://)[^\s'\"<>])+@"
)
"""User and password, up to the last ``@``: a password can have any character of a URL."""
_SECRET_MEMBER: Final = re.compile(
    r"(?i)(?:aws_?)?(?:secret_?access_?key|session_?token|access_?key_?id)"
    r"|(?:[a-z0-9]+[_-])*(?:password|passwd|api[_-]?key|private[_-]?key)"
    r"|(?:client_?)?secret|authorization"
    r"|(?:(?:access|auth|bearer|refresh|sas|api|github|gitlab|slack|private)[_-]?)?token"
)
_ASSIGNED: Final = re.compile(
    r"(?i)((?:secret_?access_?key|session_?token|password|passwd|api[_-]?key|client_?secret"
    r"|(?:access|auth|refresh)_?token)[\"']?\s*[=:]\s*[\"']?"
    r"|authorization[\"']?\s*[=:]\s*[\"']?(?:bearer|basic|token)\s+)[^\s\"',;&<>]+"
)
"""In texts other than JSON: a name, ``=`` or ``:``, and the value up to the next space."""
_KNOWN_FORM: Final = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[oprsu]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}"
    r"|\bxox[abeprs]-[A-Za-z0-9-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"
)
_MAY_HAVE_SECRETS: Final = re.compile(
    rb"(?i)://|AKIA|ASIA|gh[oprsu]_|github_pat_|xox[abeprs]-|secret|token|password|passwd"
    rb"|api[_-]?key|private[_ -]?key|authorization|\\u"
)
_URL: Final = re.compile(r"://[^\s'\"<>]*")
_REPLACED: Final = "***"
_PASSES: Final = 4
"""Number of times that a text is searched, because its parts may form other URLs."""
_LONGEST_LINE: Final = 200
_COLON: Final = re.compile(r"[ \t\n\r]*:")


def is_plain(path: bytes) -> bool:
    """Return whether a path may be that of a document: safe in git and on every file system.

    It has letters, digits and simple punctuation only, and is not too long. The only names that
    begin with a dot are those of Zarr.
    """
    return len(path) <= 400 and all(
        len(name) <= 200 and _PLAIN.match(name) for name in path.split(b"/")
    )


class DocumentSelection:
    """Selects the rows that become documents: the first ones by path within the limits.

    The selection does not depend on the order in which rows are added.
    """

    def __init__(self, start: int) -> None:
        self._start = start
        self._kept: list[ObjectRow] = []

    def add(self, row: ObjectRow) -> ObjectRow | None:
        """Add a row; return a row that is dropped from the selection, if any."""
        insort(self._kept, row, key=lambda kept: kept.key)
        return self._kept.pop() if len(self._kept) > MAX_DOCUMENTS else None

    def split(self) -> tuple[list[ObjectRow], list[ObjectRow]]:
        """Return the selected rows by path, and the rows that exceed the limits."""
        folders = {
            row.key[:end]
            for row in self._kept
            for end in range(self._start, len(row.key))
            if row.key[end : end + 1] == b"/"
        }
        documents: list[ObjectRow] = []
        others: list[ObjectRow] = []
        left = MAX_TOTAL_BYTES
        for row in self._kept:
            if row.size > left or row.key in folders:
                others.append(row)
            else:
                left -= row.size
                documents.append(row)
        return documents, others


def without_members(content: bytes, names: Collection[str]) -> bytes:
    """Remove top-level members from a JSON object; return other content unchanged."""
    try:
        text = content.decode("utf-8")
        members, end = _members(text)
    except (ValueError, RecursionError):
        return content
    dropped = [index for index, (name, _, _) in enumerate(members) if name in names]
    if not dropped:
        return content
    kept = [text[start:stop] for name, start, stop in members if name not in names]
    if not kept:
        return b"{}" + text[end:].encode("utf-8")
    # the separator (comma, line break, indent) is removed with the member before it
    head, tail = text[: members[0][1]], text[members[-1][2] :]
    between = [text[members[index][2] : members[index + 1][1]] for index in range(len(members) - 1)]
    separators = [text for index, text in enumerate(between) if index not in dropped]
    rest = (separator + part for separator, part in zip(separators, kept[1:], strict=False))
    return "".join([head, kept[0], *rest, tail]).encode("utf-8")


def _members(text: str) -> tuple[list[tuple[str, int, int]], int]:
    """Return name, start and end of each member of a JSON object; raise ValueError."""
    decoder = json.JSONDecoder()

    def skip(at: int) -> int:
        space = _SPACE.match(text, at)
        return at if space is None else space.end()

    at = skip(0)
    if text[at : at + 1] != "{":
        raise ValueError("no JSON object")
    members: list[tuple[str, int, int]] = []
    at = skip(at + 1)
    while text[at : at + 1] != "}":
        start = at
        name, at = decoder.raw_decode(text, at)
        at = skip(at)
        if not isinstance(name, str) or text[at : at + 1] != ":":
            raise ValueError("no JSON object")
        _, at = decoder.raw_decode(text, skip(at + 1))
        members.append((name, start, at))
        at = skip(at)
        if text[at : at + 1] == ",":
            at = skip(at + 1)
            if text[at : at + 1] == "}":
                raise ValueError("no JSON object")
        elif text[at : at + 1] != "}":
            raise ValueError("no JSON object")
    if text[at + 1 :].strip():
        raise ValueError("more than a JSON object")
    return members, at + 1


def without_secrets(content: bytes) -> bytes:
    """Remove signed queries, user info in URLs, and named credentials from a document.

    In JSON only the affected texts are serialized again; other content is searched as text. What is
    left of a text may be JSON, so that it is searched again.
    """
    for _ in range(_PASSES):
        cleaned = _without_secrets_once(content)
        if cleaned == content:
            break
        content = cleaned
    return content


def _without_secrets_once(content: bytes) -> bytes:
    if not _MAY_HAVE_SECRETS.search(content):
        return content
    text = content.decode("utf-8", "surrogateescape")
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return _clean(text).encode("utf-8", "surrogateescape")
    pieces: list[str] = []
    done = last = 0
    secret = False
    for quoted in _TEXT.finditer(text):
        value: str = json.loads(quoted.group(), strict=False)
        names = _COLON.match(text, quoted.end()) is not None
        secret = secret and text.find("}", last, quoted.start()) < 0
        cleaned = _REPLACED if secret and not names and value else _clean(value)
        if cleaned != value:
            pieces += [text[done : quoted.start()], json.dumps(cleaned)]
            done = quoted.end()
        last = quoted.end()
        if names:
            secret = _SECRET_MEMBER.fullmatch(value) is not None
    if not done:
        return content
    return "".join([*pieces, text[done:]]).encode("utf-8", "surrogateescape")


def one_line(value: object) -> str:
    """Return a text as one line of at most 200 characters without secrets; empty for non-texts."""
    if not isinstance(value, str):
        return ""
    line = without_secrets(" ".join(value.split()).encode("utf-8", "backslashreplace")).decode()
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…"


def _clean(text: str) -> str:
    for _ in range(_PASSES):
        cleaned = _clean_once(text)
        if cleaned == text:
            return text
        text = cleaned
    # what is left of a URL may form another one with the text beside it, any number of times
    return _clean_once(_URL.sub(_REPLACED, text))


def _clean_once(text: str) -> str:
    # passwords first: the end of a signed URL may be in one
    text = _PASSWORD_URL.sub(r"\1", text)
    text = _SIGNED.sub(_cleaned_url, text)
    text = _ASSIGNED.sub(rf"\1{_REPLACED}", text)
    return _KNOWN_FORM.sub(_REPLACED, text)


def _cleaned_url(url: str) -> str:
    try:
        return clean_url(url)
    except ValueError:
        return _REPLACED
