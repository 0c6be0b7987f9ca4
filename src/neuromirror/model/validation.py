"""Structs that are validated when they are read.

Parse and validate untrusted JSON documents.

Lock files, manifests, ``.neuromirror/dataset.json`` and journals of other stores may have any
content. A validated document has the members, types and patterns of its format, and a limited
depth.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import to_builtins

from neuromirror.model.errors import NeuromirrorError, escape_unprintable

_T = TypeVar("_T")

_lock = threading.Lock()
_analysed: set[Any] = set()


def analysed_type(kind: type[_T]) -> type[_T]:
    """Return a type after msgspec has analysed it completely.

    msgspec analyses a type when it is used for the first time. Another thread that uses the type
    meanwhile reads incomplete data, and the process crashes. A decoder that is made when its module
    is imported does not need this function.

    Parameters
    ----------
    kind
        The type of a value to decode or convert, such as a ``msgspec.Struct``.

    Returns
    -------
    type
        The same type.
    """
    if kind not in _analysed:
        with _lock:
            msgspec.msgpack.Decoder(kind)
            _analysed.add(kind)
    return kind


MAX_JSON_DEPTH: Final = 64
"""Maximum depth of nested lists and objects in a document."""
MAX_INTEGER: Final = (1 << 63) - 1
"""Maximum integer in a document, as in SQLite and most other programs."""

_PATTERN_DESCRIPTIONS: Final[dict[str, str]] = {}
"""Descriptions of patterns for messages."""


def _described_pattern(pattern: str, description: str) -> msgspec.Meta:
    _PATTERN_DESCRIPTIONS[repr(pattern)] = description
    return msgspec.Meta(pattern=pattern, max_length=4096)


CommitId = Annotated[
    str, _described_pattern(r"^[0-9a-f]{40}\Z", "a git object id of 40 hexadecimal digits")
]
StateDigestText = Annotated[
    str, _described_pattern(r"^sha256:[0-9a-f]{64}\Z", "sha256: and 64 hexadecimal digits")
]
DatasetName = Annotated[
    str,
    _described_pattern(
        r"^[a-z0-9][a-z0-9-]*:[^\x00-\x1f\x7f]+\Z", "a dataset's name, <mirror>:<id>"
    ),
]
DatasetId = Annotated[
    str,
    _described_pattern(r"^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", "a UUID in lower case"),
]
SingleLine = Annotated[
    str, _described_pattern(r"^[^\x00-\x1f\x7f]+\Z", "one line without control characters")
]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]

_MESSAGE_WITH_MEMBER: Final = re.compile(r"(.*) - at `(?:key in )?\$\.?(.*)`", re.DOTALL)
_MISMATCH: Final = re.compile(r"Expected (.*), got (.*)", re.DOTALL)
_MISSING: Final = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)
_REGEX: Final = re.compile(r"`str` matching regex (.*)", re.DOTALL)
_UNSAFE_PATH: Final = re.compile(r"(?:\A|/)(?:\.git|\.{0,2})(?:/|\Z)|\x00", re.IGNORECASE)
_LONGEST_SHOWN: Final = 120


class InvalidDocumentError(NeuromirrorError, ValueError):
    """An untrusted document violates its format.

    Attributes
    ----------
    document
        The name of the document.
    member
        The path of the invalid member; empty for the whole document.
    expected, found
        The expected and the actual value or type; ``found`` may be empty.
    """

    def __init__(self, document: str, member: str, expected: str, found: str = "") -> None:
        self.document, self.member, self.expected, self.found = (
            escape_unprintable(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…")
            for text in (document, member, expected, found)
        )
        member_clause = f" in {self.member!r}" if member else ""
        found_clause = f", found {self.found}" if found else ""
        super().__init__(f"{self.document}: expected {self.expected}{member_clause}{found_clause}")


def dump_json(value: object) -> bytes:
    """Return a struct as JSON in ASCII.

    Unlike with msgspec, its paths may be other bytes than UTF-8; :func:`parse_json` reads them.

    Parameters
    ----------
    value
        The struct.

    Returns
    -------
    bytes
        The JSON text with sorted keys, without spaces and newlines.
    """
    return json.dumps(to_builtins(value), sort_keys=True, separators=(",", ":")).encode("ascii")


def parse_json(content: bytes | str, document: str) -> Any:
    """Parse untrusted JSON.

    Parameters
    ----------
    content
        The JSON text.
    document
        The name of the document in error messages.

    Returns
    -------
    Any
        The parsed document.

    Raises
    ------
    InvalidDocumentError
        For encodings other than UTF-8, repeated members, NaN and infinities, numbers over 64 bits,
        more than :data:`MAX_JSON_DEPTH` levels, and surrogates other than the escapes of
        :func:`~neuromirror.model.path_to_text`.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_reject_repeated_members, parse_constant=_reject_constant
        )
    except RecursionError as error:
        raise invalid_document_error(error, document) from None
    except InvalidDocumentError as error:
        raise InvalidDocumentError(document, error.member, error.expected, error.found) from None
    except ValueError as error:
        raise InvalidDocumentError(document, "", "JSON in UTF-8", str(error)) from None
    check_values(value, document)
    return value


def check_values(value: Any, document: str) -> None:
    """Raise InvalidDocumentError if a parsed document has values that other parsers could misread.

    Parameters
    ----------
    value
        The parsed document.
    document
        The name of the document in error messages.

    Raises
    ------
    InvalidDocumentError
        A number has more than 64 bits, a text has surrogates other than the escapes of
        :func:`~neuromirror.model.path_to_text`, or there are more than :data:`MAX_JSON_DEPTH`
        levels.
    """
    level: list[Any] = [[value]]
    for _ in range(MAX_JSON_DEPTH + 2):
        if not level:
            return
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += one.values()
                _check_texts(one, document)
            elif isinstance(one, list):
                below += one
        _check_texts((one for one in below if isinstance(one, str)), document)
        for one in below:
            if isinstance(one, (int, float)) and not -MAX_INTEGER - 1 <= one <= MAX_INTEGER:
                found = str(one) if isinstance(one, float) else f"{one:#x}"
                raise InvalidDocumentError(document, "", "numbers of 64 bits", found)
        level = [one for one in below if isinstance(one, (dict, list))]
    raise InvalidDocumentError(document, "", f"at most {MAX_JSON_DEPTH} levels", "more")


def convert(value: Any, kind: type[_T], document: str) -> _T:
    """Convert a parsed document to a type.

    Parameters
    ----------
    value
        The parsed document.
    kind
        The type, such as a ``msgspec.Struct``.
    document
        The name of the document in error messages.

    Returns
    -------
    _T
        The value of that type.

    Raises
    ------
    InvalidDocumentError
        The document does not have the type.
    """
    try:
        return msgspec.convert(value, analysed_type(kind))
    except (msgspec.ValidationError, RecursionError) as error:
        raise invalid_document_error(error, document) from None


def invalid_document_error(
    error: msgspec.DecodeError | RecursionError, document: str
) -> InvalidDocumentError:
    """Convert an error of msgspec to an InvalidDocumentError.

    Parameters
    ----------
    error
        The error.
    document
        The name of the document in error messages.

    Returns
    -------
    InvalidDocumentError
        The error to raise.
    """
    if isinstance(error, RecursionError):
        return InvalidDocumentError(document, "", f"at most {MAX_JSON_DEPTH} levels", "more")
    message, member = str(error), ""
    if located := _MESSAGE_WITH_MEMBER.fullmatch(message):
        message, member = located.groups()
    if missing := _MISSING.fullmatch(message):
        member = f"{member}.{missing[2]}".lstrip(".")
        is_missing = missing[1].startswith("missing")
        return InvalidDocumentError(
            document, member, "this member" if is_missing else "no such member", ""
        )
    if mismatch := _MISMATCH.fullmatch(message):
        return InvalidDocumentError(document, member, mismatch[1], mismatch[2])
    expected = message.removeprefix("Expected ")
    if regex := _REGEX.fullmatch(expected):
        expected = _PATTERN_DESCRIPTIONS.get(regex[1], expected)
    return InvalidDocumentError(document, member, expected)


def is_git_path(path: str) -> bool:
    """Return whether a path is valid in git and stays below the top of the work tree.

    Parameters
    ----------
    path
        The path.

    Returns
    -------
    bool
        Whether the path may be used below a folder.
    """
    # a fast test for the common case, since there may be millions of paths
    odd = "/." in path or "//" in path or "\0" in path or path[-1:] in "/" or path[0] in "./"
    return not (odd and _UNSAFE_PATH.search(path))


def _reject_repeated_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InvalidDocumentError("", twice, "each member once", "it twice")
    return found


def _reject_constant(constant: str) -> Any:
    raise InvalidDocumentError("", "", "numbers", constant)


def _check_texts(texts: Iterable[str], document: str) -> None:
    for text in texts:
        if not text.isascii():
            try:
                text.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                raise InvalidDocumentError(document, "", "Unicode text", ascii(text)) from None
