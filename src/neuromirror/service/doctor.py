"""Checks of the environment: programs, disk space, permissions, clock and network.

The only write is an empty temporary file in each folder, to check that it is writable.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from neuromirror.config.mirror_files import list_mirror_files, load_mirror
from neuromirror.crawl import Mirror
from neuromirror.index import Index, IndexMissingError, IndexUnusableError
from neuromirror.index.backup import missing_sqlite_features
from neuromirror.model import ConfigurationError, NeuromirrorError, environment_without_secrets
from neuromirror.model.programs import install_advice
from neuromirror.net import (
    AccessDeniedError,
    RequestLimits,
    S3Bucket,
    Session,
    is_local_name,
    origin,
    parse_http_date,
)
from neuromirror.service.integrity import IntegrityState
from neuromirror.store import NotAStoreError, Store

Level = Literal["ok", "warning", "error"]

_GIT: Final = (2, 34)
_ANNEX: Final = (10, 20250101)
_OPEN_FILES: Final = 1024
_CRITICAL_SPACE, _LOW_SPACE = 256 << 20, 5 << 30
"""Free bytes on a disk below which there is an error or a warning."""
_CLOCK_TOLERANCE, _CLOCK_LIMIT = 30.0, 300.0
"""Offset of the clock, in seconds, above which there is a warning or an error."""
_LIMITS: Final = RequestLimits(
    attempts=2, wait=0.5, wait_max=1.0, retry_after_max=2, connect=5, read=10
)


class DoctorCheck(Struct, frozen=True):
    """The result of one check of the environment.

    Attributes
    ----------
    subject
        The checked program, folder or archive.
    level
        ``ok``, ``warning`` or ``error``.
    message
        The result, with advice in case of a problem.
    """

    subject: str
    level: Level
    message: str


def run_doctor_checks(
    mirrors: Path | None, store: Path, index: Path | None, *, offline: bool = False
) -> Iterator[DoctorCheck]:
    """Run all checks.

    Parameters
    ----------
    mirrors
        The folder of mirror files; None if only the built-in mirrors are used.
    store
        The folder of the store.
    index
        The path of the index if it is not in the store.
    offline
        Send no requests to archives.

    Yields
    ------
    DoctorCheck
        One result per check.
    """
    yield _release("git", "--version", least=_GIT, level="error", advice="install", without="")
    yield _release(
        *("git-annex", "version", "--raw"),
        least=_ANNEX,
        level="warning",
        advice="it should be",
        without="mirroring works without it, but file content cannot be fetched or verified: ",
    )
    yield _program("git-annex-backend-XS3ETAG", "files with a multipart ETag cannot be verified")
    yield _program("git-annex-remote-neuromirror", "git-annex cannot fetch volumes")
    yield _sqlite()
    yield _files()
    yield from _folders(store, index)
    yield from _store(store, index)
    if mirrors is None:
        yield DoctorCheck("mirrors", "ok", "only the built-in ones ('neuromirror mirrors')")
        return
    try:
        paths = list_mirror_files(mirrors)
    except ConfigurationError as error:
        yield DoctorCheck("mirrors", "error", str(error))
        return
    times: list[float] = []
    for path in paths:
        yield from _mirror(path, None if offline else times.append)
    if times:
        yield _clock(times)


# --- programs


def _release(
    program: Literal["git", "git-annex"],
    *arguments: str,
    least: tuple[int, int],
    level: Level,
    advice: str,
    without: str,
) -> DoctorCheck:
    """Check that a program is there, in a release of at least this version."""
    output = _program_output(program, *arguments)
    if output is None:
        message = f"{program} is not on PATH: {without}{install_advice(program)}"
        return DoctorCheck(program, level, message)
    found = re.search(r"([0-9]+)\.([0-9]+)", output)
    if found is None or (int(found[1]), int(found[2])) < least:
        required = ".".join(map(str, least))
        return DoctorCheck(program, level, f"{output}; {advice} {required} or newer")
    return DoctorCheck(program, "ok", output)


def _program(name: str, without: str) -> DoctorCheck:
    found = shutil.which(name)
    if found is not None:
        return DoctorCheck(name, "ok", found)
    folder = Path(sys.executable).parent
    message = f"not on PATH: {without}; add {folder} to PATH, or activate the environment"
    return DoctorCheck(name, "warning", message)


def _program_output(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command,
            env=environment_without_secrets(),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (FileNotFoundError, PermissionError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _sqlite() -> DoctorCheck:
    version, lacking = missing_sqlite_features()
    if lacking:
        message = f"Python is linked with SQLite {version}, which {lacking}; use another Python"
        return DoctorCheck("sqlite", "error", message)
    return DoctorCheck("sqlite", "ok", f"SQLite {version}")


def _files() -> DoctorCheck:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _OPEN_FILES:
        message = (
            f"the limit of open files is {soft}; raise it to {_OPEN_FILES} or more (ulimit -n)"
        )
        return DoctorCheck("files", "warning", message)
    return DoctorCheck("files", "ok", f"the limit of open files is {soft}")


# --- folders


def _folders(store: Path, index: Path | None) -> Iterator[DoctorCheck]:
    """Check space and permissions of the folders that are written; each disk once."""
    folders = [("store", store), ("temporary files", Path(tempfile.gettempdir()))]
    if index is not None:
        folders.insert(1, ("index", index.parent))
    seen_devices: set[int] = set()
    for what, folder in folders:
        existing = folder.absolute()
        while not existing.is_dir() and existing != existing.parent:
            existing = existing.parent
        try:
            with tempfile.TemporaryFile(prefix=".new-", dir=existing):
                pass
        except OSError as error:
            message = f"{existing} cannot be written: {error.strerror}; check its permissions"
            yield DoctorCheck(what, "error", message)
            continue
        free = shutil.disk_usage(existing).free
        nodes = os.statvfs(existing)
        device = existing.stat().st_dev
        if device in seen_devices:
            continue
        seen_devices.add(device)
        message = f"{free / 1e9:.1f} GB free at {existing}"
        level: Level = (
            "error" if free < _CRITICAL_SPACE else "warning" if free < _LOW_SPACE else "ok"
        )
        if level != "ok":
            message += "; free some space: writes fail on a full disk, and are retried later"
        if nodes.f_files and nodes.f_favail < 10_000:
            level, message = (
                "warning",
                f"the file system of {existing} has {nodes.f_favail} free inodes",
            )
        yield DoctorCheck(what, level, message)


def _store(root: Path, index: Path | None) -> Iterator[DoctorCheck]:
    try:
        store = Store.open(root)
    except NotAStoreError as error:
        missing = not root.exists() or not any(root.iterdir())
        message = f"{root} does not exist yet; 'neuromirror sync' creates it"
        yield DoctorCheck(
            "store format", "ok" if missing else "error", message if missing else str(error)
        )
        return
    except OSError as error:
        yield DoctorCheck("store format", "error", f"{root}: {error.strerror}")
        return
    others = store.root.stat().st_uid != os.getuid()
    message = f"{root} belongs to another user (id {store.root.stat().st_uid})"
    yield DoctorCheck(
        "store format",
        "warning" if others else "ok",
        f"{message}; mirror as that user; to clone, git must trust it: git config --global --add "
        f"safe.directory '{root.absolute()}/*' (before git 2.46: '*')"
        if others
        else f"a store at {root}",
    )
    if not os.access(store.journal.path, os.W_OK, effective_ids=True) and store.journal.size():
        message = f"{store.journal.path} cannot be written; check its permissions"
        yield DoctorCheck("journal", "error", message)
    yield _index(store, index or store.index_path)
    known = IntegrityState.load(store)
    broken = known.messages
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        yield DoctorCheck(
            "integrity", "error", f"{broken[0]}{more}; 'neuromirror fsck' checks again"
        )
    else:
        when = (
            f"intact at the last check, {known.finished_at}"
            if known.finished_at
            else "never checked"
        )
        yield DoctorCheck("integrity", "ok", f"{when} ('neuromirror fsck')")


def _index(store: Store, path: Path) -> DoctorCheck:
    rebuild = "run 'neuromirror rebuild-index'"
    try:
        with Index.open_readonly(path) as index:
            position = index.position
    except IndexMissingError as error:
        if store.journal.size():
            return DoctorCheck("index", "error", str(error))
        return DoctorCheck("index", "ok", "does not exist yet; 'neuromirror sync' creates it")
    except (IndexUnusableError, OSError) as error:
        return DoctorCheck("index", "error", str(error))
    size = store.journal.size()
    if position > size:
        message = f"covers {position:,} bytes of a journal of {size:,}; {rebuild}"
        return DoctorCheck("index", "error", message)
    if position < size:
        message = f"{size - position:,} bytes of the journal behind; the next sync updates it"
        return DoctorCheck("index", "warning", message)
    return DoctorCheck("index", "ok", f"{path} covers the whole journal")


# --- archives


def _mirror(
    path: Path, record_clock_offset: Callable[[float], None] | None
) -> Iterator[DoctorCheck]:
    """Check a mirror file and its archive; ``record_clock_offset`` None: send no request."""
    name = f"mirror {path.stem}"
    try:
        mirror = load_mirror(path)
        uri = mirror.open().uri
    except (ConfigurationError, OSError) as error:
        yield DoctorCheck(name, "error", str(error))
        return
    unset = str(mirror.settings.options.get("token_env") or "")
    if unset and not os.environ.get(unset):
        message = f"its token variable {unset} is not set: requests are anonymous"
        yield DoctorCheck(name, "warning", message)
    if record_clock_offset is None:
        yield DoctorCheck(name, "ok", f"{uri} (not contacted)")
        return
    address = _probe_url(mirror)
    if address is None:
        yield DoctorCheck(name, "ok", f"{uri} (its source has no URL to probe)")
        return
    private = mirror.settings.options.get("allow_private")
    if private is None:
        private = is_local_name(origin(address)[1])
    try:
        with Session(allow_private=bool(private), limits=_LIMITS) as session:
            reply = session.with_policy(mirror.settings.net.request_policy()).head(
                address, redirects=3
            )
    except (NeuromirrorError, ValueError) as error:
        message = f"{error}; check the network, the proxy, and the URL in {path}"
        yield DoctorCheck(name, "error", message)
        return
    if "Date" in reply.headers:
        theirs = parse_http_date(reply.headers["Date"])
        if theirs is not None:
            record_clock_offset((datetime.now(UTC) - theirs).total_seconds())
    if reply.status in (401, 403) or reply.status >= 500:
        message = f"{uri}: HTTP {reply.status}; it may reject this machine, or require a token"
        yield DoctorCheck(name, "warning", message)
        return
    yield _check_listing(name, uri, mirror)


def _check_listing(name: str, uri: str, mirror: Mirror) -> DoctorCheck:
    """Check that the archive lists datasets: a response to a probe alone proves little."""
    try:
        first = next(iter(mirror.open().datasets()), None)
    except AccessDeniedError as error:
        message = f"{error}; it may reject this machine, or require a token"
        return DoctorCheck(name, "warning", message)
    except (NeuromirrorError, OSError, ValueError) as error:
        message = f"{uri} returns no list of datasets: {error}; check the URL in {mirror.path}"
        return DoctorCheck(name, "error", message)
    if first is None:
        return DoctorCheck(name, "warning", f"{uri} is reachable, but lists no dataset")
    return DoctorCheck(name, "ok", f"{uri} is reachable and lists datasets")


def _probe_url(mirror: Mirror) -> str | None:
    """Return a URL for a probe: the base of an API, or a bucket; None without one."""
    options = mirror.settings.options
    api = options.get("api")
    if isinstance(api, str):
        return api
    bucket = options.get("bucket")
    if isinstance(bucket, str):
        region, endpoint = options.get("region"), options.get("endpoint")
        with Session() as session:
            s3_bucket = S3Bucket(
                session,
                bucket,
                region=region if isinstance(region, str) else "us-east-1",
                endpoint=endpoint if isinstance(endpoint, str) else None,
            )
        return s3_bucket.object_url(b"")
    return None


def _clock(ahead: list[float]) -> DoctorCheck:
    """Compare the clock with the median of the archives' clocks."""
    off = sorted(ahead)[len(ahead) // 2]
    if abs(off) <= _CLOCK_TOLERANCE:
        return DoctorCheck("clock", "ok", f"within {_CLOCK_TOLERANCE:.0f} s of the archives'")
    side = "ahead of" if off > 0 else "behind"
    message = f"{abs(off):.0f} s {side} the archives'; set it by NTP (timedatectl set-ntp true)"
    return DoctorCheck("clock", "error" if abs(off) > _CLOCK_LIMIT else "warning", message)
