"""Run git: commands, refs, bundles and fsck, with their errors.

Read the refs of a repository without git: loose refs and the packed-refs file.

Formats: git-pack-refs(1), gitrepository-layout(5).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from neuromirror.model import NeuromirrorError, environment_without_secrets

_REDIRECTED: Final = re.compile(r"returned error: 30[1278]\b")


class GitError(NeuromirrorError):
    """A git command failed."""


class InvalidRefNameError(NeuromirrorError):
    """git does not accept a name as that of a ref."""


class ObjectMissingError(NeuromirrorError):
    """A requested object cannot be read: its name is wrong, or the repository is damaged."""


class ObjectsRefusedError(GitError):
    """Objects from an untrusted source failed git's strict checks."""


class PackIndexError(NeuromirrorError):
    """A pack index is damaged, or of a version other than 2."""


def with_redirect_advice(message: str) -> str:
    """Return a message of git, with what to do if the server redirects, which git must not follow.

    Parameters
    ----------
    message
        The message.

    Returns
    -------
    str
        The message with the advice, or unchanged.
    """
    if not _REDIRECTED.search(message):
        return message
    return (
        f"{message}; the server redirects to another URL, which is not followed: use that URL, "
        "often the same with https://"
    )


MEMORY_LIMIT = {"GIT_ALLOC_LIMIT": "2g"}
"""Variables that limit a single allocation of git: a small delta may expand to any size."""

STALL_LIMIT = ("-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60")
"""Options that end a transfer over HTTP in which no byte arrives for a minute."""

REMOTE_OPTIONS = (*STALL_LIMIT, "-c", "http.followRedirects=false")
"""Options of a git command that requests a repository of others: besides the above, a server cannot
redirect git to an address of this network."""

PACK_MEMORY_OPTIONS = ("-c", "core.packedGitWindowSize=1m", "-c", "core.packedGitLimit=64m")
"""Options that limit the parts of packs in memory, of a git command that reads in their order."""

# `git rev-parse --local-env-vars`, and the variables that redirect object lookups
_REPOSITORY_VARIABLES = frozenset(
    f"GIT_{name}"
    for name in (
        *("ALTERNATE_OBJECT_DIRECTORIES", "COMMON_DIR", "DIR", "GRAFT_FILE", "INDEX_FILE"),
        *("IMPLICIT_WORK_TREE", "NAMESPACE", "OBJECT_DIRECTORY", "PREFIX", "REPLACE_REF_BASE"),
        *("SHALLOW_FILE", "WORK_TREE"),
    )
)


_SETTINGS: Final = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "protocol.ext.allow": "never",
    "submodule.recurse": "false",
    "annex.verify": "true",
}
"""Settings of every git command, whatever the repository's own are: it runs no program of others.
"""


def with_settings(
    environment: Mapping[str, str], settings: Collection[tuple[str, str]]
) -> dict[str, str]:
    """Return an environment with settings of git, which override those of configuration files."""
    first = int(environment.get("GIT_CONFIG_COUNT") or 0)
    changed = {**environment, "GIT_CONFIG_COUNT": str(first + len(settings))}
    for number, (name, value) in enumerate(settings, first):
        changed |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return changed


def git_environment(git_dir: Path | None, *, credentials: bool = False) -> dict[str, str]:
    """Return the environment of a git command.

    The variables of another repository are removed: a sync may run in a git hook. Hash and ref
    format are fixed, whatever the user's defaults are. No hook runs, and no missing object is
    fetched from a promisor remote.

    Parameters
    ----------
    git_dir
        The repository, as GIT_DIR: git then skips its check of the repository's owner. None lets
        git find the repository from the working directory, and check its owner.
    credentials
        Keep tokens and passwords in the environment, for a command that talks to a remote.

    Returns
    -------
    dict[str, str]
        The whole environment of the child process.
    """
    inherited = dict(os.environ) if credentials else environment_without_secrets()
    environment = {
        name: value for name, value in inherited.items() if name not in _REPOSITORY_VARIABLES
    }
    if git_dir is not None:
        environment["GIT_DIR"] = str(git_dir)
    environment |= {
        "GIT_DEFAULT_HASH": "sha1",
        "GIT_DEFAULT_REF_FORMAT": "files",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
    }
    return with_settings(environment, _SETTINGS.items())


def call_git(
    environment: Mapping[str, str],
    *arguments: str | bytes,
    folder: Path | None = None,
    stdin: bytes = b"",
    umask: int = -1,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a git command in an environment; return its exit code and output.

    Parameters
    ----------
    environment
        The whole environment of the command, such as that of :func:`git_environment`.
    *arguments
        The command and its arguments, without ``git``.
    folder
        The working directory; None for that of this process.
    stdin
        The command's input.
    umask
        The umask of the command; -1 keeps that of this process.
    timeout
        Seconds after which the command is killed; None for no limit.

    Returns
    -------
    subprocess.CompletedProcess[bytes]
        Exit code, standard output and standard error.

    Raises
    ------
    subprocess.TimeoutExpired
        The command took longer than ``timeout``.
    """
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env=environment,
        input=stdin,
        umask=umask,
        capture_output=True,
        timeout=timeout,
        check=False,
    )


def try_git(
    git_dir: Path | None,
    *arguments: str,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    credentials: bool = False,
    umask: int = -1,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a git command on a repository; return its exit code, and its output as text.

    Parameters
    ----------
    git_dir
        The repository's own directory; None as for :func:`git_environment`.
    *arguments
        The command and its arguments, without ``git``.
    stdin
        The command's input.
    environment
        Variables beside those of :func:`git_environment`.
    credentials
        Keep tokens and passwords in the environment.
    umask
        The umask of the command; -1 keeps that of this process.
    timeout
        Seconds after which the command is killed; None for no limit.

    Returns
    -------
    subprocess.CompletedProcess[str]
        Exit code, standard output and standard error.

    Raises
    ------
    subprocess.TimeoutExpired
        The command took longer than ``timeout``.
    """
    # bytes: text mode would turn a carriage return in a commit message into a newline
    done = call_git(
        git_environment(git_dir, credentials=credentials) | dict(environment or {}),
        *arguments,
        stdin=stdin.encode("utf-8", "surrogateescape"),
        umask=umask,
        timeout=timeout,
    )
    return subprocess.CompletedProcess(
        done.args,
        done.returncode,
        done.stdout.decode("utf-8", "replace"),
        done.stderr.decode("utf-8", "replace"),
    )


def run_git(
    git_dir: Path,
    *arguments: str,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    umask: int = -1,
) -> str:
    """Run a git command on a repository as :func:`try_git` does, and return its output.

    Parameters
    ----------
    git_dir
        The repository's own directory.
    *arguments
        The command and its arguments, without ``git``.
    stdin
        The command's input.
    environment
        Variables beside those of :func:`git_environment`.
    umask
        The umask of the command; -1 keeps that of this process.

    Returns
    -------
    str
        The standard output.

    Raises
    ------
    GitError
        The command failed; the message has what git printed to stderr.
    """
    done = try_git(git_dir, *arguments, stdin=stdin, environment=environment, umask=umask)
    if done.returncode:
        reason = done.stderr.strip() or f"exit code {done.returncode}"
        raise GitError(f"'git {' '.join(arguments[:2])}' failed in {git_dir}: {reason}")
    return done.stdout


@contextmanager
def start_git(git_dir: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a git command on a repository, with pipes for its input and output.

    The process is killed at the end of the block, so that a reader may stop early.

    Parameters
    ----------
    git_dir
        The repository's own directory.
    *arguments
        The command and its arguments, without ``git``.

    Yields
    ------
    subprocess.Popen[bytes]
        The running process.
    """
    with subprocess.Popen(
        ["git", *arguments],
        env=git_environment(git_dir),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


PACKED_REFS = "packed-refs"

# git-check-ref-format(1)
_INVALID_NAME = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)|[/.]\Z")


def is_ref_name(name: str) -> bool:
    """Return whether git accepts a full name as that of a ref (git-check-ref-format(1)).

    Parameters
    ----------
    name
        A full name, such as ``refs/tags/draft``.

    Returns
    -------
    bool
        Whether the name is valid.
    """
    return name.startswith("refs/") and not _INVALID_NAME.search(name)


def ref_creation_commands(refs: Mapping[str, str]) -> str:
    """Return the input of ``git update-ref --stdin -z`` that creates refs.

    Parameters
    ----------
    refs
        Full name → commit id in hex.

    Returns
    -------
    str
        The commands, each terminated by NUL.

    Raises
    ------
    InvalidRefNameError
        git rejects a name; so no name is read as a command.
    """
    for name in refs:
        if not is_ref_name(name):
            raise InvalidRefNameError(f"{name!r} is not a valid ref name; nothing was changed")
    return "".join(f"create {name}\0{commit}\0" for name, commit in refs.items())


def read_refs(repository: Path) -> dict[str, str]:
    """Return all refs of a repository; a loose ref overrides a packed one.

    Parameters
    ----------
    repository
        The git directory.

    Returns
    -------
    dict[str, str]
        Full name → object id in hex.
    """
    refs = {name: sha for name, (sha, _) in read_packed_refs(repository).items()}
    refs.update(_read_loose_refs(repository))
    return refs


def read_loose_ref(repository: Path, name: str) -> str | None:
    """Return the content of a loose ref, given its full name; None if it is missing."""
    try:
        return _decode((repository / name).read_bytes()).strip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def read_packed_refs(repository: Path) -> dict[str, tuple[str, str]]:
    """Return the refs in the packed-refs file: full name → (object id, peeled line).

    The peeled line (``^<id>``, newline included) follows an annotated tag; else it is empty.
    """
    try:
        # bytes: str.splitlines also splits at Unicode line separators, which names may contain
        lines = [_decode(line) for line in (repository / PACKED_REFS).read_bytes().splitlines(True)]
    except FileNotFoundError:
        return {}
    refs: dict[str, tuple[str, str]] = {}
    name = ""
    for line in lines:
        if line.startswith("^"):
            refs[name] = (refs[name][0], line)
        elif not line.startswith("#"):
            sha, _, name = line.rstrip("\n").partition(" ")
            refs[name] = (sha, "")
    return refs


def info_refs_content(repository: Path) -> bytes | None:
    """Return the content of ``info/refs`` for clients of plain HTTP (gitrepository-layout(5)).

    Returns
    -------
    bytes | None
        None if only git can compute it: a loose ref may be an annotated tag.
    """
    packed = read_packed_refs(repository)
    if any(_read_loose_refs(repository)) or not _is_fully_peeled(repository):
        return None
    lines = []
    for name, (sha, peeled) in sorted(packed.items()):
        lines.append(f"{sha}\t{name}\n")
        if peeled:
            lines.append(f"{peeled[1:].strip()}\t{name}^{{}}\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def _read_loose_refs(repository: Path) -> Iterator[tuple[str, str]]:
    for path in sorted((repository / "refs").rglob("*")):
        name = path.relative_to(repository).as_posix()
        if not name.endswith(".lock") and (sha := read_loose_ref(repository, name)):
            yield name, sha


def _is_fully_peeled(repository: Path) -> bool:
    """Return whether packed-refs has the peeled line of every annotated tag in it."""
    try:
        with (repository / PACKED_REFS).open("rb") as file:
            head = file.readline()
    except FileNotFoundError:
        return True
    return head.startswith(b"# pack-refs with:") and b" fully-peeled " in head


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def create_bundle(
    git_dir: Path, bundle: Path, refs: Iterable[str], exclude: Iterable[str] = ()
) -> None:
    """Write a bundle of refs of a repository, without the history of ``exclude``.

    Parameters
    ----------
    git_dir
        The repository.
    bundle
        The file to write.
    refs
        Full names of the refs.
    exclude
        Commit ids whose history the reader of the bundle has.

    Raises
    ------
    GitError
        git cannot write the bundle.
    """
    excluded = list(exclude)
    options = ["--not", *excluded] if excluded else []
    run_git(git_dir, "bundle", "create", "-q", str(bundle), *refs, *options)


def create_bundle_of_commits(
    repository: Path, scratch: Path, bundle: Path, refs: Mapping[str, str], head: str
) -> None:
    """Write a bundle in which refs have the given names, whatever the repository calls them.

    The repository is only read: a temporary one borrows its objects.

    Parameters
    ----------
    repository
        The bare repository that has the objects.
    scratch
        The directory of the temporary repository, which must not exist yet.
    bundle
        The file to write.
    refs
        Full name → commit id, of the refs beside ``HEAD``.
    head
        The full name of the ref that ``HEAD`` points to.

    Raises
    ------
    GitError
        git cannot write the bundle.
    InvalidRefNameError
        A name is not a valid ref name.
    """
    run_git(scratch, "init", "-q", "--bare", str(scratch), environment=MEMORY_LIMIT)
    alternates = scratch / "objects" / "info" / "alternates"
    alternates.write_bytes(os.fsencode(repository.absolute() / "objects") + b"\n")
    (scratch / "HEAD").write_text(f"ref: {head}\n")
    commands = ref_creation_commands(refs)
    run_git(scratch, "update-ref", "--stdin", "-z", stdin=commands, environment=MEMORY_LIMIT)
    create_bundle(scratch, bundle, ["HEAD", *refs])


def read_bundle_refs(bundle: Path) -> dict[str, str]:
    """Return the refs of a bundle; empty if it is missing or unreadable.

    Parameters
    ----------
    bundle
        The file.

    Returns
    -------
    dict[str, str]
        Name → commit id in hex.
    """
    if not bundle.is_file():
        return {}
    # no repository: the directory of a foreign bundle may look like one, with a configuration
    done = try_git(Path(os.devnull), "bundle", "list-heads", str(bundle.absolute()))
    pairs = (line.partition(" ") for line in done.stdout.split("\n") if line)
    return {name: commit for commit, _, name in pairs}


FSCK_OPTIONS = tuple(
    argument
    for name in ("fetch", "receive", "transfer")
    for argument in ("-c", f"{name}.fsckObjects=true")
)
"""Options of a git command that receives objects: git rejects malformed ones."""


def check_objects(git_dir: Path) -> None:
    """Check all objects of an untrusted repository, and that they are connected.

    :data:`FSCK_OPTIONS` are not enough: git ignores them for bundles (before 2.46), for
    repositories on a plain web server, and for packs that were not fetched. Among others, the check
    rejects trees with duplicate or unsorted entries, names such as ``..`` and ``.git`` in any
    spelling that a file system equates with them, and a ``.gitmodules`` with names or URLs that git
    does not accept.

    Parameters
    ----------
    git_dir
        The repository.

    Raises
    ------
    ObjectsRefusedError
        An object is malformed or missing.
    """
    # --strict: warnings are errors
    checks = ("--strict", "--full", "--no-dangling", "--no-reflogs", "--no-progress")
    done = try_git(git_dir, "fsck", *checks, environment=MEMORY_LIMIT)
    if done.returncode:
        _refuse(done)


def check_pack(git_dir: Path, pack: Path) -> None:
    """Check the objects of a pack as :func:`check_objects` does, and that their links exist.

    Other packs are not read, which saves minutes and memory with millions of objects.

    Parameters
    ----------
    git_dir
        The repository, which has the objects that the pack links to.
    pack
        The pack, beside its index.

    Raises
    ------
    ObjectsRefusedError
        An object is malformed or missing, or pack and index differ.
    """
    check = ("index-pack", "--verify", "--strict", str(pack))
    done = try_git(git_dir, *check, environment=MEMORY_LIMIT)
    if done.returncode:
        _refuse(done)


def _refuse(done: subprocess.CompletedProcess[str]) -> NoReturn:
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    raise ObjectsRefusedError(
        f"its git objects fail git's checks ({'; '.join(lines[:3]) or 'git failed'}); "
        "get another copy from its origin"
    )
