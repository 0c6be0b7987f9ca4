"""``datasets.lock``: which states of which datasets a piece of work stands on.

The format is specified in docs/lock.md, and by docs/lock.schema.json: TOML, written by the tool,
one ``[[dataset]]`` each. Equal pins give equal bytes: no time, no machine, no order but the one in
which datasets were pinned first. Comments that people write stay where they are.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec

from neuromirror import __version__
from neuromirror.lab.clone_urls import refuse_clone_url
from neuromirror.lab.globs import Globs
from neuromirror.lab.lock_comments import LockBlocks
from neuromirror.lab.regular_files import NotARegularFileError, open_regular
from neuromirror.model import (
    CommitId,
    ConfigurationError,
    Count,
    DatasetName,
    DatasetRef,
    Evidence,
    InvalidDocumentError,
    Retention,
    SingleLine,
    StateDigestText,
    check_values,
    escape_unprintable,
)

LOCK_VERSION = 1

_HEAD = (
    "# Datasets pinned by neuromirror; 'neuromirror restore {name} --into DIR' brings them back.\n"
    "# Change this file with 'neuromirror pin'. Its format: docs/lock.md of neuromirror.\n"
    "lock-version = {version}\n"
)
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_POSITION = re.compile(r" - at `\$(?:\.dataset\[(\d+)\])?\.?([^`]*)`\Z")

_MAX_BYTES = 1 << 24
_MAX_KEY_PARTS = 8
# strings and comments: what is in them is no key
_STRINGS_AND_COMMENTS = re.compile(
    r'''"""(?:[^\\]|\\.)*?(?:"""|\Z)|'{3}.*?(?:'{3}|\Z)|"(?:[^"\\\n]|\\.)*+"?|'[^'\n]*+'?|'''
    r"#[^\n]*+",
    re.DOTALL,
)
_LONG_KEY = re.compile(
    rf'(?<![A-Za-z0-9_-])(?:(?:[A-Za-z0-9_-]++|"")[ \t]*+\.[ \t]*+){{{_MAX_KEY_PARTS}}}'
)
_GitPath = bytes
"""For a class that has a field ``bytes``."""


class LockUnusableError(ConfigurationError):
    """The file is no lock, or says what cannot be: it was damaged, or edited by hand."""


class LockMissingError(LockUnusableError):
    """There is no file of this name."""


class LockVersionError(LockUnusableError):
    """The lock is of a later version of the format than this neuromirror knows."""


class LockInconsistentError(LockUnusableError):
    """Two things that the lock says of one dataset cannot both be true."""


class ResolvedVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was asked for as it was found: the version's label, and its DOI if it has one."""

    version: SingleLine
    doi: str | None = None


class PinnedEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files by whether their bytes were hashed by the mirror, or upstream claims the digest."""

    checked: Count = 0
    claimed: Count = 0


class Pin(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="kebab",
    forbid_unknown_fields=True,
    omit_defaults=True,
    dict=True,
):
    """One dataset of a lock, at one state.

    ``name`` is ``<mirror>:<local id>``; ``requested`` the label that a person gave (``latest``).
    ``commit``, ``tree`` and ``annex_commit`` are git object ids, ``state`` and ``metadata`` the
    digests of the files and of upstream's documents. ``manifest`` and ``bundle`` are paths beside
    the lock, ``clone`` URLs without credentials. ``paths`` are globs (see lab.globs), empty for the
    whole. ``files``, ``bytes`` and ``evidence`` are of what is pinned, sub-datasets included;
    ``durability`` is the weakest promise that upstream makes for one of these files.
    """

    name: DatasetName
    requested: SingleLine
    resolved: ResolvedVersion
    dataset_id: str
    source: SingleLine
    commit: CommitId
    annex_commit: CommitId
    tree: CommitId
    swhid: str
    state: StateDigestText
    metadata: Annotated[str, msgspec.Meta(pattern=r"^(?:sha256:[0-9a-f]{64})?\Z")] = ""
    manifest: str
    bundle: str | None = None
    clone: tuple[str, ...] = ()
    files: Count
    bytes: Count
    paths: tuple[str, ...] = ()
    evidence: dict[Evidence, PinnedEvidence] = {}
    durability: Retention

    @property
    def dataset(self) -> DatasetRef:
        """The dataset that is pinned."""
        mirror, _, local_id = self.name.partition(":")
        return DatasetRef(mirror, local_id, self.source)

    @property
    def version(self) -> str:
        """``<mirror>:<local id>@<label>``."""
        return f"{self.name}@{self.resolved.version}"

    @cached_property
    def globs(self) -> Globs:
        """The globs of :attr:`paths`."""
        return Globs(self.paths)

    def matches(self, git_path: _GitPath) -> bool:
        """Whether a file is pinned; its path is from the root, through sub-datasets."""
        return not self.paths or self.globs.matches(git_path.decode("utf-8", "surrogateescape"))

    def reaches(self, git_path: _GitPath) -> bool:
        """Whether a folder or sub-dataset may hold a file that is pinned."""
        return not self.paths or self.globs.reaches(git_path.decode("utf-8", "surrogateescape"))

    def contradictions(self, description: Mapping[str, Any]) -> str:
        """What the commit says of itself that the pin says otherwise; empty where nothing is.

        ``described`` is what stands in its ``.neuromirror/dataset.json``. The label of a draft is
        not in there.
        """
        comparisons = [
            ("dataset", self.name, description["dataset"]),
            ("DOI", self.resolved.doi, description.get("doi")),
        ]
        if self.metadata and description.get("metadata"):
            comparisons.append(("metadata digest", self.metadata, description["metadata"]))
        if description.get("kind") == "published":
            comparisons.append(("version", self.resolved.version, description["version"]))
        return "; ".join(
            f"the lock says that its {what} is {ours or 'none'}, but commit {self.commit} says "
            f"{theirs or 'none'}"
            for what, ours, theirs in comparisons
            if (ours or None) != (theirs or None)
        )


class Lock(msgspec.Struct, frozen=True):
    """A lock and where it is; ``datasets`` in the order of the file."""

    path: Path
    datasets: tuple[Pin, ...] = ()

    def pin(self, name: str) -> Pin | None:
        """The pin of a dataset, or None."""
        return next((pin for pin in self.datasets if pin.name == name), None)

    @property
    def folder(self) -> Path:
        """The folder for manifests and bundles, which belongs to this lock alone."""
        return self.path.with_name(f"{self.path.name}.d")

    def manifest_path(self, pin: Pin) -> Path:
        """Where the manifest of a pin is."""
        return self.path.parent / pin.manifest

    def bundle_path(self, pin: Pin) -> Path | None:
        """Where the bundle of a pin is; None where none was made."""
        return None if pin.bundle is None else self.path.parent / pin.bundle


class _File(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    lock_version: int
    dataset: list[Pin] = []


def load_lock(path: Path) -> Lock:
    """The lock in a file.

    Raises LockMissingError, LockVersionError, LockInconsistentError, or LockUnusableError for
    anything else that is wrong.
    """
    try:
        content = read_lock_bytes(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise LockMissingError(
            f"there is no lock {path}; 'neuromirror pin -o {path}' makes one"
        ) from (error)
    return parse_lock(path, content)


def read_lock_bytes(path: Path) -> bytes:
    """What is in a file, little more than a lock may have; raises LockUnusableError for a pipe."""
    try:
        with open_regular(path) as file:
            return file.read(_MAX_BYTES + 1)
    except NotARegularFileError as error:
        raise LockUnusableError(f"{error}, and so no lock; name another, or remove it") from error


def parse_lock(path: Path, content: bytes) -> Lock:
    """The lock of a file's content; raises as :func:`load_lock` does."""
    table = _table(path, content)
    found = table.get("lock-version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise LockUnusableError(f"{path} has no lock-version: it is not a lock of neuromirror")
    if found > LOCK_VERSION:
        raise LockVersionError(
            f"{path} is of lock-version {min(found, 1 << 32)}; this neuromirror ({__version__}) "
            f"knows versions up to {LOCK_VERSION}: install a newer neuromirror. Nothing was done"
        )
    try:
        check_values(table, str(path))
        pins = msgspec.convert(table, _File).dataset
    except InvalidDocumentError as error:
        raise LockUnusableError(f"{error}; {_ADVICE}") from None
    except msgspec.ValidationError as error:
        raise LockUnusableError(
            f"{path}: {escape_unprintable(_explain_error(str(error), table))}; {_ADVICE}"
        ) from error
    twice = [name for name, count in Counter(pin.name for pin in pins).items() if count > 1]
    if twice:
        raise LockInconsistentError(f"{path} pins {twice[0]} twice; {_ADVICE}")
    for pin in pins:
        _check(path, pin)
    return Lock(path, tuple(pins))


def _table(path: Path, content: bytes) -> dict[str, Any]:
    """Parse the TOML of a lock; raises LockUnusableError.

    Deep nesting, and keys of many parts, would take a TOML parser all its stack or all day.
    """
    if len(content) > _MAX_BYTES:
        raise LockUnusableError(f"{path} is no lock: it has more than {_MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8")
        if _LONG_KEY.search(_STRINGS_AND_COMMENTS.sub('""', text)):
            raise LockUnusableError(
                f"{path}: a key has more than {_MAX_KEY_PARTS} parts; keys of a lock have one"
            )
        return tomllib.loads(text)
    except RecursionError:
        raise LockUnusableError(f"{path} is nested too deeply for a lock; {_ADVICE}") from None
    except ValueError as error:
        raise LockUnusableError(
            f"{path} is not TOML: {escape_unprintable(str(error))}; {_ADVICE}"
        ) from error


def dump_lock(lock: Lock, before: bytes = b"") -> bytes:
    """The file of a lock; ``before`` is what it held, whose comments are kept.

    Lines of pins that did not change stay as they are.
    """
    blocks = LockBlocks.parse(before.decode("utf-8")) if before else None
    old = {pin.name: pin for pin in parse_lock(lock.path, before).datasets} if before else {}
    head = _HEAD.format(name=lock.path.name, version=LOCK_VERSION)
    if blocks is None:
        written = head + "".join(f"\n{_block(pin)}" for pin in lock.datasets)
    else:
        written = blocks.render(
            {pin.name: None if old.get(pin.name) == pin else _lines(pin) for pin in lock.datasets}
        )
        if not _parses_to(written, lock):
            # written by hand in a way that cannot be taken apart line by line
            written = head + "".join(f"\n{_block(pin)}" for pin in lock.datasets)
    return written.encode("utf-8")


_ADVICE = (
    "was it edited by hand? Take it back from git, or move it aside and write it anew with "
    "'neuromirror pin'"
)


def _explain_error(message: str, table: Mapping[str, Any]) -> str:
    """msgspec's words with the dataset's name in place of its number."""
    position = _POSITION.search(message)
    where = ""
    if position is not None:
        message = message[: position.start()]
        if position[1] is not None:
            number = int(position[1])
            entries = table.get("dataset")
            entry = entries[number] if isinstance(entries, list) else None
            name = entry.get("name") if isinstance(entry, dict) else None
            where = f" of dataset {name if isinstance(name, str) else number + 1}"
        where = f" in {position[2]}{where}" if position[2] else where
    if unknown := _UNKNOWN.search(message):
        return f"unknown key {unknown[1]!r}{where}"
    if missing := _MISSING.search(message):
        return f"no key {missing[1]!r}{where}"
    return f"{message}{where}"


def _check(path: Path, pin: Pin) -> None:
    """Raises for what cannot be true together, or would lead out of the lock's own folder."""
    if pin.swhid != f"swh:1:rev:{pin.commit}":
        raise LockInconsistentError(
            f"{path}: the swhid of {pin.name} is not of its commit; {_ADVICE}"
        )
    if pin.dataset_id != pin.dataset.dataset_id:
        raise LockInconsistentError(
            f"{path}: the dataset-id of {pin.name} is not of its source; {_ADVICE}"
        )
    if sum(one.checked + one.claimed for one in pin.evidence.values()) != pin.files:
        raise LockInconsistentError(
            f"{path}: the evidence of {pin.name} is not of all its files; {_ADVICE}"
        )
    for name in (pin.manifest, pin.bundle):
        parts = () if name is None else tuple(name.split("/"))
        if name is not None and (name[:1] == "/" or "\0" in name or {"", ".", ".."} & set(parts)):
            raise LockUnusableError(f"{path}: {name!r} of {pin.name} is not a path beside the lock")
    try:
        for url in pin.clone:
            refuse_clone_url(url)
        Globs(pin.paths)
    except ConfigurationError as error:
        raise LockUnusableError(f"{path}, {pin.name}: {error}") from error


def _parses_to(text: str, lock: Lock) -> bool:
    try:
        return parse_lock(lock.path, text.encode("utf-8")).datasets == lock.datasets
    except LockUnusableError:
        return False


def _block(pin: Pin) -> str:
    return "[[dataset]]\n" + "".join(f"{lines}\n" for lines in _lines(pin).values())


def _lines(pin: Pin) -> dict[str, str]:
    """The lines of each key, without the last newline, in the order of the format."""
    table = msgspec.to_builtins(pin, order=None)
    table["evidence"] = {
        evidence.value: table["evidence"][evidence.value]
        for evidence in Evidence
        if evidence in pin.evidence
    }
    return {name: f"{name} = {_to_toml(value)}" for name, value in table.items() if value != {}}


def _to_toml(value: Any) -> str:
    """A value in TOML: a list of more than one thing has a line for each."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_to_toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        if len(value) < 2:
            return f"[{''.join(map(_to_toml, value))}]"
        return "[\n" + "".join(f"    {_to_toml(one)},\n" for one in value) + "]"
    if isinstance(value, str):
        # TOML's basic strings are JSON's, but for one character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)
