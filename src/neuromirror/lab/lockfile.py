"""``datasets.lock``: the versions of datasets that a project uses.

Split the text of a lock file into lines, to keep comments when values change.

Only the layout that the tool writes is supported: one ``[[dataset]]`` after the other, one key per
line, lists with one item per line. The caller parses the result to detect any other layout.

The format is specified in docs/reference/lock.md and lock.schema.json: TOML, written by the tool,
with one ``[[dataset]]`` per dataset. Equal pins give equal bytes: the file has no times and no
names of machines, and datasets are in the order in which they were first pinned. Comments are kept.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field

from neuromirror import __version__, model
from neuromirror.annex import VaultAddress, VaultKind, is_vault_url, vault_addresses
from neuromirror.lab.clone_urls import refuse_clone_url
from neuromirror.lab.globs import Globs
from neuromirror.model.validation import analysed_type
from neuromirror.net import redact

_LOCK: Final = "datasets.lock"
_MAX_CLONES: Final = 2
"""Number of clones in a folder that are suggested."""
_MAX_STEPS_UP: Final = 4
"""Number of folders in which a lock file is looked for: the current one and those above it."""


def similar_paths(path: Path) -> list[str]:
    """Return paths that a user may have meant by a missing lock file or folder, the nearest first.

    Parameters
    ----------
    path
        The missing path.

    Returns
    -------
    list of str
        Similar names in its folder, and the lock files there and in the folders above.
    """
    try:
        names = [one.name for one in path.parent.iterdir()]
    except OSError:
        names = []
    near = [path.parent / name for name in get_close_matches(path.name, names, 2)]
    return list(dict.fromkeys(map(str, [*near, *_locks(path.parent)])))


def nearby_datasets(folder: Path) -> list[str]:
    """Return clones and a lock file that a user may have meant by a folder that is not a clone.

    Parameters
    ----------
    folder
        The folder.

    Returns
    -------
    list of str
        The clone that contains the folder, else those in it; and the nearest lock file.
    """
    above = [folder.joinpath(*[".."] * steps) for steps in range(1, _MAX_STEPS_UP)]
    around = [one for one in above if (one / ".git").exists()]
    within = sorted(one.parent for one in folder.glob("*/.git"))
    return [*map(str, around[:1] or within[:_MAX_CLONES]), *map(str, _locks(folder))]


def _locks(folder: Path) -> list[Path]:
    """Return the lock file of a folder, or else the nearest one above the current folder."""
    above = [Path(*[".."] * steps, _LOCK) for steps in range(_MAX_STEPS_UP)]
    return [one for one in (folder / _LOCK, *above) if one.is_file()][:1]


_TABLE = re.compile(r"\[\[\s*dataset\s*\]\]\s*(?:#.*)?\Z")
_KEY = re.compile(r"([A-Za-z0-9_-]+)\s*=")
_VALUE = re.compile(r"""(?:[^#"']|"(?:[^"\\]|\\.)*+"|'[^']*+')*+""")


class _Block(Struct):
    """A ``[[dataset]]`` with the comments before it; ``lines`` have no newline."""

    name: str
    lines: list[str] = field(default_factory=list)


class LockBlocks(Struct):
    """The lines of a lock file: those before the first dataset, and those of each dataset.

    With them an unchanged pin keeps its comments when the file is written again.
    """

    head: list[str]
    blocks: list[_Block]

    @classmethod
    def parse(cls, text: str) -> LockBlocks:
        """Split the text of a lock file."""
        found: list[list[str]] = [[]]
        for line in text.splitlines():
            if _TABLE.match(line):
                own = _comments_at_end(found[-1])
                found.append([*own, line])
            else:
                found[-1].append(line)
        head, *rest = found
        return cls(head, [_Block(_name(lines), lines) for lines in rest])

    def render(self, tables: Mapping[str, Mapping[str, str] | None]) -> str:
        """Return the text with the given datasets.

        Existing datasets keep their positions; new ones follow in the given order.

        Parameters
        ----------
        tables
            By the name of the dataset: the lines of each key, or None for no change.
        """
        written = ["\n".join(self.head).rstrip("\n")]
        for block in self.blocks:
            if block.name in tables:
                keys = tables[block.name]
                lines = block.lines if keys is None else _replace_values(block.lines, keys)
                written.append("\n".join(lines).strip("\n"))
        existing = {block.name for block in self.blocks}
        for name, keys in tables.items():
            if name not in existing and keys is not None:
                written.append("\n".join(["[[dataset]]", *keys.values()]))
        return "\n\n".join(written) + "\n"


def _comments_at_end(lines: list[str]) -> list[str]:
    """Remove and return the comments directly before the next table."""
    start = len(lines)
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    own = lines[start:]
    del lines[start:]
    return own


def _name(lines: list[str]) -> str:
    """Return the name of the dataset of a block, or an empty text if it cannot be parsed."""
    try:
        (table,) = tomllib.loads("\n".join(lines))["dataset"]
        return str(table.get("name", ""))
    except ValueError:
        return ""


def _replace_values(lines: list[str], keys: Mapping[str, str]) -> list[str]:
    """Replace the values of a block; comments stay with their keys."""
    before: dict[str, list[str]] = {}
    behind: dict[str, str] = {}
    waiting: list[str] = []
    top: list[str] = []
    for line in lines:
        key = _KEY.match(line)
        if line.lstrip().startswith("#"):
            waiting.append(line)
        elif _TABLE.match(line):
            top, waiting = [*waiting, line], []
        elif key is not None:
            before[key[1]], waiting = waiting, []
            behind[key[1]] = _comment(line)
    written = top
    for name, value in keys.items():
        written += before.pop(name, [])
        comment = behind.get(name, "")
        written.append(f"{value}  {comment}" if comment and "\n" not in value else value)
    return [*written, *(line for left in before.values() for line in left), *waiting]


def _comment(line: str) -> str:
    """Return the comment at the end of a line ``key = value  # comment``, or an empty text."""
    found = _VALUE.match(line)
    return line[found.end() :] if found and line[found.end() : found.end() + 1] == "#" else ""


MOST_VAULTS: Final = 16
"""Maximum number of vaults of a pin: for a missing file, each of them is asked."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9!_.()/-]{0,255}")


class PinnedVault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vault that has copies of pinned files.

    Attributes
    ----------
    name
        The name of the vault.
    uuid
        The git-annex UUID of the vault.
    kind
        How the copies are named.
    url
        The base of their URLs: ``http``, ``https``, or ``s3`` for a bucket that needs credentials.
    """

    name: str
    uuid: str
    kind: VaultKind
    url: str

    @property
    def address(self) -> VaultAddress:
        """Where the copies are."""
        return VaultAddress(self.kind, self.url)

    def problem(self) -> str:
        """Return why the values are not valid; empty if they are. They may be untrusted."""
        if not _NAME.fullmatch(self.name):
            return f"{self.name[:80]!r} is not the name of a vault"
        if not _UUID.fullmatch(self.uuid):
            return f"{self.uuid[:80]!r} is not a UUID"
        is_valid = is_vault_url(self.url)
        if self.kind is VaultKind.S3 and self.url.startswith("s3:"):
            parts = urlsplit(self.url)
            bucket, prefix = parts.netloc, parts.path.removeprefix("/")
            is_valid = self.url == f"s3://{bucket}/{prefix}" and bool(
                _BUCKET.fullmatch(bucket) and _PREFIX.fullmatch(prefix)
            )
        if not is_valid:
            allowed = "http, https or s3" if self.kind is VaultKind.S3 else "http or https"
            shown = redact(self.url)[:200]
            return f"{shown!r} is not the URL of a vault ({allowed}, no credentials)"
        return ""


def parse_location(text: str) -> VaultAddress:
    """Return the vault at a location that the user has specified.

    Parameters
    ----------
    text
        The folder of a vault, the URL of such a folder, or ``s3://bucket/prefix``.

    Raises
    ------
    ConfigurationError
        There is no vault at the location.
    """
    if text.startswith("s3:"):
        vault = PinnedVault("vault", "0" * 8 + "-0000" * 3 + "-" + "0" * 12, VaultKind.S3, text)
        if problem := vault.problem():
            raise model.ConfigurationError(problem)
        return vault.address
    if is_vault_url(text):
        return VaultAddress(VaultKind.DIRECTORY, text)
    folder = Path(text)
    if not (folder / "annex" / "objects").is_dir():
        raise model.ConfigurationError(
            f"{redact(text)} is no vault: specify its folder (which has annex/objects), the URL of "
            "this folder, or s3://BUCKET/PREFIX"
        )
    return VaultAddress(VaultKind.DIRECTORY, str(folder.absolute()))


def pinned_vaults(
    remotes: Mapping[str, Mapping[str, str]], before: Iterable[PinnedVault] = ()
) -> tuple[PinnedVault, ...]:
    """Return the vaults that a lock file can name, sorted by name.

    Vaults at a path of a machine are omitted: a lock file is used on others.

    Parameters
    ----------
    remotes
        The configurations of remotes in ``remote.log``, by UUID.
    before
        The vaults of an earlier pin. Those that need credentials are kept, since repositories do
        not name them.
    """
    found = {one.uuid: one for one in before if one.url.startswith("s3:")}
    for uuid, vault in vault_addresses(remotes).items():
        if vault.is_url:
            found[uuid] = PinnedVault(remotes[uuid]["name"], uuid, vault.kind, vault.base)
    return tuple(sorted(found.values(), key=lambda one: (one.name, one.uuid))[:MOST_VAULTS])


LOCK_VERSION = 2

_HEAD = (
    "# Datasets pinned by neuromirror; 'neuromirror restore {name} --into DIR' restores them.\n"
    "# Change this file with 'neuromirror pin'. Format: docs/reference/lock.md of neuromirror.\n"
    "lock-version = {version}\n"
)
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_POSITION = re.compile(r" - at `\$(?:\.dataset\[(\d+)\])?\.?([^`]*)`\Z")

_MAX_BYTES = 1 << 24
_DIGESTS_PATH = re.compile(r"(?:\A|/)[0-9a-f]{64}\.block-digests\Z")
_STATED_FILE = r"^[0-9a-f]{64}  [0-9a-f]{40}\.(?:jsonl\.zst|bundle)\Z"
_MAX_KEY_PARTS = 8
# strings and comments have no keys
_STRINGS_AND_COMMENTS = re.compile(
    r'''"""(?:[^\\]|\\.)*?(?:"""|\Z)|'{3}.*?(?:'{3}|\Z)|"(?:[^"\\\n]|\\.)*+"?|'[^'\n]*+'?|'''
    r"#[^\n]*+",
    re.DOTALL,
)
_LONG_KEY = re.compile(
    rf'(?<![A-Za-z0-9_-])(?:(?:[A-Za-z0-9_-]++|"")[ \t]*+\.[ \t]*+){{{_MAX_KEY_PARTS}}}'
)
_GitPath = bytes
"""The type ``bytes``, for classes with a field of that name."""


class LockUnusableError(model.ConfigurationError):
    """The file is not a valid lock file."""


class LockInconsistentError(LockUnusableError):
    """Two fields of a pin contradict each other."""


class ResolvedVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The label and the DOI of the version that the requested label stood for."""

    version: model.SingleLine
    doi: str | None = None


class PinnedEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers of files whose digest the mirror checked, and of files with only upstream's claim."""

    checked: model.Count = 0
    claimed: model.Count = 0


class Pin(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="kebab",
    forbid_unknown_fields=True,
    omit_defaults=True,
    dict=True,
):
    """A pinned version of a dataset.

    Attributes
    ----------
    name
        ``<mirror>:<local id>``.
    requested
        The label that was requested, such as ``latest``.
    resolved
        The label of the pinned version.
    dataset_id
        The UUID of the dataset.
    source
        The URI of the dataset upstream.
    commit, tree, annex_commit
        Git object ids.
    swhid
        The SWHID of the commit.
    state, metadata
        The digests of the files and of the documents of upstream.
    manifest, bundle, block_digests
        Paths relative to the lock file; the name of ``block_digests`` contains its sha256.
    sha256
        The sha256 and the name of each manifest and bundle of the dataset and its subdatasets, as
        lines of sha256sum(1).
    clone
        Clone URLs without credentials.
    copies
        Vaults with copies of the pinned files.
    files, bytes, evidence
        Number, size and evidence of the pinned files, including those in subdatasets.
    paths
        Globs (:mod:`neuromirror.lab.globs`); empty for the whole dataset.
    durability
        The weakest retention of the pinned files.
    """

    name: model.DatasetName
    requested: model.SingleLine
    resolved: ResolvedVersion
    dataset_id: str
    source: model.SingleLine
    commit: model.CommitId
    annex_commit: model.CommitId
    tree: model.CommitId
    swhid: str
    state: model.StateDigestText
    metadata: Annotated[str, msgspec.Meta(pattern=r"^(?:sha256:[0-9a-f]{64})?\Z")] = ""
    manifest: str
    bundle: str | None = None
    block_digests: str | None = None
    sha256: tuple[Annotated[str, msgspec.Meta(pattern=_STATED_FILE)], ...]
    clone: tuple[str, ...] = ()
    copies: tuple[PinnedVault, ...] = ()
    files: model.Count
    bytes: model.Count
    paths: tuple[str, ...] = ()
    evidence: dict[model.Evidence, PinnedEvidence] = {}
    durability: model.Retention

    @property
    def dataset(self) -> model.DatasetRef:
        """Return the dataset."""
        mirror, _, local_id = self.name.partition(":")
        return model.DatasetRef(mirror, local_id, self.source)

    @property
    def version(self) -> str:
        """Return ``<mirror>:<local id>@<label>``."""
        return f"{self.name}@{self.resolved.version}"

    @cached_property
    def sha256_by_name(self) -> dict[str, str]:
        """Return the sha256 of each manifest and bundle by its name."""
        return {name: sha256 for sha256, name in (line.split("  ") for line in self.sha256)}

    @cached_property
    def globs(self) -> Globs:
        """Return the globs of :attr:`paths`."""
        return Globs(self.paths)

    def matches(self, git_path: _GitPath) -> bool:
        """Return whether a file is pinned; its path starts at the root, through subdatasets.

        Parameters
        ----------
        git_path
            The path in git.

        Returns
        -------
        bool
            Whether the globs of the pin include the file.
        """
        return not self.paths or self.globs.matches(git_path.decode("utf-8", "surrogateescape"))

    def reaches(self, git_path: _GitPath) -> bool:
        """Return whether a folder or subdataset may have pinned files.

        Parameters
        ----------
        git_path
            The path in git.

        Returns
        -------
        bool
            Whether the folder may contain a pinned file.
        """
        return not self.paths or self.globs.reaches(git_path.decode("utf-8", "surrogateescape"))

    def contradictions(self, description: Mapping[str, Any]) -> str:
        """Return the fields that differ from the commit, as text; empty if none.

        Parameters
        ----------
        description
            The ``.neuromirror/dataset.json`` of the commit, which has no label of a draft.

        Returns
        -------
        str
            The fields with both values.
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
            f"its {what} is {ours or 'missing'} in the lock file, but {theirs or 'missing'} in "
            f"commit {self.commit}"
            for what, ours, theirs in comparisons
            if (ours or None) != (theirs or None)
        )


class Lock(msgspec.Struct, frozen=True):
    """A lock file.

    Attributes
    ----------
    path
        The path of the file.
    datasets
        The pins, in the order of the file.
    """

    path: Path
    datasets: tuple[Pin, ...] = ()

    def pin(self, name: str) -> Pin | None:
        """Return the pin of a dataset, or None.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.

        Returns
        -------
        Pin | None
            The pin.
        """
        return next((pin for pin in self.datasets if pin.name == name), None)

    @property
    def folder(self) -> Path:
        """Return the folder for manifests and bundles, which belongs to this lock file only."""
        return self.path.with_name(f"{self.path.name}.d")

    def manifest_path(self, pin: Pin) -> Path:
        """Return the path of the manifest of a pin.

        Parameters
        ----------
        pin
            A pin of this lock file.

        Returns
        -------
        Path
            The path; the file may be missing.
        """
        return self.path.parent / pin.manifest

    def block_digests_path(self, pin: Pin) -> Path | None:
        """Return the path of the block digests of a pin, or None if it has none.

        Parameters
        ----------
        pin
            A pin of this lock file.

        Returns
        -------
        Path | None
            The path; the file may be missing.
        """
        return None if pin.block_digests is None else self.path.parent / pin.block_digests


class _File(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    lock_version: int
    dataset: list[Pin] = []


def load_lock(path: Path) -> Lock:
    """Read a lock file.

    Parameters
    ----------
    path
        The path of the lock file.

    Returns
    -------
    Lock
        The pins, in the order of the file.

    Raises
    ------
    LockInconsistentError
        Fields of a pin contradict each other.
    LockUnusableError
        The file does not exist, or is invalid in another way.
    """
    try:
        content = read_lock_bytes(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise LockUnusableError(
            f"{path}: no such lock file; check the path ('neuromirror pin VERSION' creates one)",
            suggestions=[one for one in similar_paths(path) if not Path(one).is_dir()],
        ) from (error)
    return parse_lock(path, content)


def read_lock_bytes(path: Path) -> bytes:
    """Return the content of a lock file; of a file that is too large, only the beginning.

    :func:`parse_lock` refuses such a beginning because of its size.

    Raises
    ------
    LockUnusableError
        The path is not a regular file.
    """
    # a program that only parses lock files does not load the store
    from neuromirror.store.durable_files import NotARegularFileError, open_regular

    try:
        with open_regular(path) as file:
            return file.read(_MAX_BYTES + 1)
    except NotARegularFileError as error:
        raise LockUnusableError(f"{error}; specify a lock file") from error


def parse_lock(path: Path, content: bytes) -> Lock:
    """Parse the content of a lock file; raises as :func:`load_lock` does."""
    table = _table(path, content)
    found = table.get("lock-version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise LockUnusableError(
            f"{path} has no lock-version, so it is not a lock file of neuromirror"
        )
    if found < LOCK_VERSION:
        raise LockUnusableError(
            f"{path} has lock-version {found}, in which a lock file did not state the sha256 of "
            "its manifests; move it away, and pin the versions in it again with 'neuromirror pin'"
        )
    if found > LOCK_VERSION:
        raise LockUnusableError(
            f"{path} has lock-version {min(found, 1 << 32)}; this neuromirror ({__version__}) "
            f"supports versions up to {LOCK_VERSION}. Install a newer neuromirror; nothing was "
            f"changed"
        )
    try:
        model.check_values(table, str(path))
        pins = msgspec.convert(table, analysed_type(_File)).dataset
    except model.InvalidDocumentError as error:
        raise LockUnusableError(f"{error}; {_ADVICE}") from None
    except msgspec.ValidationError as error:
        raise LockUnusableError(
            f"{path}: {model.escape_unprintable(_explain_error(str(error), table))}; {_ADVICE}"
        ) from error
    twice = [name for name, count in Counter(pin.name for pin in pins).items() if count > 1]
    if twice:
        raise LockInconsistentError(f"{path} pins {twice[0]} twice; {_ADVICE}")
    for pin in pins:
        _check(path, pin)
    return Lock(path, tuple(pins))


def _table(path: Path, content: bytes) -> dict[str, Any]:
    """Parse the TOML of a lock file.

    Deep nesting and keys with many parts are rejected, because they exhaust the stack or the time
    of a TOML parser.

    Raises
    ------
    LockUnusableError
        The content is not valid TOML.
    """
    if len(content) > _MAX_BYTES:
        raise LockUnusableError(
            f"{path} is too large for a lock file: more than {_MAX_BYTES} bytes"
        )
    try:
        text = content.decode("utf-8")
        if _LONG_KEY.search(_STRINGS_AND_COMMENTS.sub('""', text)):
            raise LockUnusableError(
                f"{path}: a key has more than {_MAX_KEY_PARTS} parts; keys of a lock file have one"
            )
        return tomllib.loads(text)
    except RecursionError:
        raise LockUnusableError(f"{path} is nested too deeply for a lock file; {_ADVICE}") from None
    except ValueError as error:
        raise LockUnusableError(
            f"{path} is not valid TOML: {model.escape_unprintable(str(error))}; {_ADVICE}"
        ) from error


def dump_lock(lock: Lock, before: bytes = b"") -> bytes:
    """Encode a lock file.

    Parameters
    ----------
    lock
        The lock file.
    before
        The old content; its comments, and the lines of unchanged pins, are kept.
    """
    if before:
        old = {pin.name: pin for pin in parse_lock(lock.path, before).datasets}
        edited = LockBlocks.parse(before.decode("utf-8")).render(
            {pin.name: None if old.get(pin.name) == pin else _lines(pin) for pin in lock.datasets}
        )
        # the old file may have a layout that cannot be edited line by line
        with suppress(LockUnusableError):
            if parse_lock(lock.path, edited.encode("utf-8")).datasets == lock.datasets:
                return edited.encode("utf-8")
    head = _HEAD.format(name=lock.path.name, version=LOCK_VERSION)
    blocks = ("\n".join(["\n[[dataset]]", *_lines(pin).values()]) for pin in lock.datasets)
    return (head + "".join(f"{block}\n" for block in blocks)).encode("utf-8")


_ADVICE = (
    "the lock file is damaged or was edited; get its last good copy, for example with 'git "
    "checkout', because a new pin may have other versions"
)


def _explain_error(message: str, table: Mapping[str, Any]) -> str:
    """Rewrite a message of msgspec with the name of the dataset instead of its index."""
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
        return f"unknown field {unknown[1]!r}{where}"
    if missing := _MISSING.search(message):
        return f"the field {missing[1]!r}{where} is missing"
    return f"{message}{where}"


def _check(path: Path, pin: Pin) -> None:
    """Reject contradicting fields, and paths outside the folder of the lock file."""
    for name in filter(None, (pin.manifest, pin.bundle, pin.block_digests)):
        if name[:1] == "/" or "\0" in name or {"", ".", ".."} & set(name.split("/")):
            raise LockUnusableError(
                f"{path}: {name!r} of {pin.name} is not a path below the folder of the lock file"
            )
    if why := next(_contradictions(pin), ""):
        raise LockInconsistentError(f"{path}: {why}; {_ADVICE}")
    if len(pin.sha256_by_name) != len(pin.sha256):
        raise LockInconsistentError(
            f"{path} states the sha256 of a file of {pin.name} twice; {_ADVICE}"
        )
    if pin.block_digests is not None and not _DIGESTS_PATH.search(pin.block_digests):
        raise LockUnusableError(
            f"{path}: {pin.block_digests!r} of {pin.name} does not end in a sha256 and "
            f".block-digests; {_ADVICE}"
        )
    problems = [*filter(None, (copy.problem() for copy in pin.copies))]
    if len(pin.copies) > MOST_VAULTS:
        problems.append(f"more than {MOST_VAULTS} vaults")
    if problems:
        raise LockUnusableError(f"{path}: copies of {pin.name}: {problems[0]}; {_ADVICE}")
    try:
        for url in pin.clone:
            refuse_clone_url(url)
        Globs(pin.paths)
    except model.ConfigurationError as error:
        raise LockUnusableError(f"{path}, {pin.name}: {error}") from error


def _contradictions(pin: Pin) -> Iterator[str]:
    """Yield how two fields of a pin contradict each other."""
    if pin.swhid != f"swh:1:rev:{pin.commit}":
        yield f"the swhid of {pin.name} does not match its commit"
    if pin.dataset_id != pin.dataset.dataset_id:
        yield f"the dataset-id of {pin.name} does not match its source"
    if sum(one.checked + one.claimed for one in pin.evidence.values()) != pin.files:
        yield f"the evidence counts of {pin.name} do not match its files"
    stated, folder = pin.sha256_by_name, pin.manifest[: pin.manifest.rfind("/") + 1]
    for path, ending in ((pin.manifest, "jsonl.zst"), (pin.bundle, "bundle")):
        name = f"{pin.commit}.{ending}"
        if path is not None and (path != folder + name or name not in stated):
            yield f"{path!r} of {pin.name} does not have the name of its commit, or no sha256"


def _lines(pin: Pin) -> dict[str, str]:
    """Return the lines of each key, without the last newline, in the order of the format."""
    table = msgspec.to_builtins(pin, order=None)
    table["evidence"] = {
        evidence.value: table["evidence"][evidence.value]
        for evidence in model.Evidence
        if evidence in pin.evidence
    }
    return {name: f"{name} = {_to_toml(value)}" for name, value in table.items() if value != {}}


def _to_toml(value: Any) -> str:
    """Encode a value as TOML; a list with several items has one line per item."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_to_toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        if len(value) < 2:
            return f"[{''.join(map(_to_toml, value))}]"
        return "[\n" + "".join(f"    {_to_toml(one)},\n" for one in value) + "]"
    if isinstance(value, str):
        # basic strings of TOML are those of JSON, except for one character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)
