"""Whether this machine has what mirroring takes: programs, room, rights, a clock, the network.

Nothing is written but a file of no content, which is removed again, to see whether that can be.
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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from neuromirror.conformance import check_archive, compare_reports, load_report
from neuromirror.conformance.report import ReportUnusable
from neuromirror.crawl import Mirror, load_mirror, mirror_files
from neuromirror.index import Index, IndexMissing, IndexUnusable
from neuromirror.index.backup import sqlite_lacks
from neuromirror.model import ConfigurationError, NeuromirrorError, environment_without_secrets
from neuromirror.net import (
    Forbidden,
    Limits,
    S3Bucket,
    Session,
    is_local_name,
    origin,
    stated_date,
)
from neuromirror.service.rounds import Integrity
from neuromirror.store import NotAStore, Store

Level = Literal["ok", "warning", "error"]

_GIT: Final = (2, 34)
_ANNEX: Final = (10, 20250101)
_FILES: Final = 1024
_LITTLE, _ENOUGH = 256 << 20, 5 << 30
"""Bytes of a disk: fewer are an error, fewer a warning."""
_OFF, _FAR_OFF = 30.0, 300.0
"""Seconds that the clock may differ from the archives'."""
_LIMITS: Final = Limits(attempts=2, wait=0.5, wait_max=1.0, retry_after_max=2, connect=5, read=10)


@dataclass(frozen=True, slots=True)
class Symptom:
    """One thing that was looked at, how it is, and, where it is not well, what to do."""

    what: str
    level: Level
    message: str


def examine(
    mirrors: Path,
    store: Path,
    index: Path | None,
    *,
    offline: bool = False,
    archives: bool = False,
) -> Iterator[Symptom]:
    """Looks at everything; without asking any archive where ``offline``.

    ``index`` is where the index is if it is not in the store.
    """
    yield _git()
    yield from _git_annex()
    yield _program("git-annex-backend-XS3ETAG", "files known by a multipart ETag are not checked")
    yield _program("git-annex-remote-neuromirror", "volumes cannot be got with git-annex")
    yield _sqlite()
    yield _files()
    yield from _folders(store, index)
    yield from _store(store, index)
    try:
        paths = mirror_files(mirrors)
    except ConfigurationError as error:
        yield Symptom("mirrors", "error", str(error))
        return
    times: list[float] = []
    for path in paths:
        yield from _mirror(path, None if offline else times.append)
        yield from _report(path, store, again=archives and not offline)
    if times:
        yield _clock(times)


# --- programs


def _git() -> Symptom:
    said = _said("git", "--version")
    if said is None:
        return Symptom("git", "error", "git is not on PATH; install it (apt-get install git)")
    version = _version(said)
    if version < _GIT:
        wanted = ".".join(map(str, _GIT))
        return Symptom("git", "error", f"{said}; install {wanted} or newer")
    return Symptom("git", "ok", said)


def _git_annex() -> Iterator[Symptom]:
    said = _said("git-annex", "version", "--raw")
    if said is None:
        message = (
            "git-annex is not on PATH: mirrors are made without it, but nothing can be got or "
            "checked here; pip install 'neuromirror[annex]', or apt-get install git-annex"
        )
        yield Symptom("git-annex", "warning", message)
        return
    if _version(said) < _ANNEX:
        wanted = ".".join(map(str, _ANNEX))
        yield Symptom("git-annex", "warning", f"{said}; it should be {wanted} or newer")
        return
    yield Symptom("git-annex", "ok", said)


def _program(name: str, without: str) -> Symptom:
    found = shutil.which(name)
    if found is not None:
        return Symptom(name, "ok", found)
    folder = Path(sys.executable).parent
    message = f"it is not on PATH: {without}; put {folder} on PATH, or activate the environment"
    return Symptom(name, "warning", message)


def _said(*command: str) -> str | None:
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


def _version(said: str) -> tuple[int, ...]:
    found = re.search(r"([0-9]+)\.([0-9]+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _sqlite() -> Symptom:
    version, lacking = sqlite_lacks()
    if lacking:
        message = f"Python is linked with SQLite {version}, which {lacking}; use another Python"
        return Symptom("sqlite", "error", message)
    return Symptom("sqlite", "ok", f"SQLite {version}")


def _files() -> Symptom:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FILES:
        message = f"{soft} files may be open at a time; allow {_FILES} or more (ulimit -n)"
        return Symptom("files", "warning", message)
    return Symptom("files", "ok", f"{soft} may be open at a time")


# --- folders


def _folders(store: Path, index: Path | None) -> Iterator[Symptom]:
    """Room and rights where something is written; each disk is told once."""
    places = [("store", store), ("temporary files", Path(tempfile.gettempdir()))]
    if index is not None:
        places.insert(1, ("index", index.parent))
    told: set[int] = set()
    for what, folder in places:
        there = folder.absolute()
        while not there.is_dir() and there != there.parent:
            there = there.parent
        try:
            with tempfile.TemporaryFile(prefix=".new-", dir=there):
                pass
        except OSError as error:
            message = f"{there} cannot be written: {error.strerror}; see to its permissions"
            yield Symptom(what, "error", message)
            continue
        free = shutil.disk_usage(there).free
        nodes = os.statvfs(there)
        device = there.stat().st_dev
        if device in told:
            continue
        told.add(device)
        message = f"{free / 1e9:.1f} GB free at {there}"
        level: Level = "error" if free < _LITTLE else "warning" if free < _ENOUGH else "ok"
        if level != "ok":
            message += "; make room: what does not fit fails, and is done again later"
        if nodes.f_files and nodes.f_favail < 10_000:
            level, message = "warning", f"{there} has room for {nodes.f_favail} more files"
        yield Symptom(what, level, message)


def _store(root: Path, index: Path | None) -> Iterator[Symptom]:
    try:
        store = Store.open(root)
    except NotAStore as error:
        missing = not root.exists() or not any(root.iterdir())
        message = f"there is none at {root} yet; 'neuromirror sync' makes it"
        yield Symptom(
            "store format", "ok" if missing else "error", message if missing else str(error)
        )
        return
    except OSError as error:
        yield Symptom("store format", "error", f"{root}: {error.strerror}")
        return
    others = store.root.stat().st_uid != os.getuid()
    message = f"{root} belongs to another user (id {store.root.stat().st_uid})"
    yield Symptom(
        "store format",
        "warning" if others else "ok",
        f"{message}; run neuromirror as that user" if others else f"a store at {root}",
    )
    if not os.access(store.journal_path, os.W_OK, effective_ids=True) and store.journal_size():
        message = f"{store.journal_path} cannot be written; see to its permissions"
        yield Symptom("journal", "error", message)
    yield _index(store, index or store.index_path)
    known = Integrity.of(store)
    broken = [one for found in known.broken.values() for one in found]
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        yield Symptom("integrity", "error", f"{broken[0]}{more}; 'neuromirror fsck' looks again")
    else:
        when = f"whole when last looked at, {known.ended}" if known.ended else "never looked at"
        yield Symptom("integrity", "ok", f"{when} ('neuromirror fsck')")


def _index(store: Store, path: Path) -> Symptom:
    rebuild = "'neuromirror rebuild-index' makes it anew"
    try:
        with Index.open_readonly(path) as index:
            position = index.position
    except IndexMissing as error:
        if store.journal_size():
            return Symptom("index", "error", str(error))
        return Symptom("index", "ok", "there is none yet; 'neuromirror sync' makes it")
    except (IndexUnusable, OSError) as error:
        return Symptom("index", "error", str(error))
    size = store.journal_size()
    if position > size:
        message = f"it has {position:,} bytes of a journal of {size:,}; {rebuild}"
        return Symptom("index", "error", message)
    if position < size:
        message = f"{size - position:,} bytes of the journal behind; the next sync brings it on"
        return Symptom("index", "warning", message)
    return Symptom("index", "ok", f"{path} has all of the journal")


# --- archives


def _mirror(path: Path, took: Callable[[float], None] | None) -> Iterator[Symptom]:
    """A mirror file, its archive's address and list; ``took`` gets its clock's advance."""
    name = f"mirror {path.stem}"
    try:
        mirror = load_mirror(path)
        uri = mirror.open().uri
    except (ConfigurationError, OSError) as error:
        yield Symptom(name, "error", str(error))
        return
    unset = str(mirror.settings.options.get("token_env") or "")
    if unset and not os.environ.get(unset):
        message = f"the environment variable {unset} of its token is not set: it asks as anybody"
        yield Symptom(name, "warning", message)
    if took is None:
        yield Symptom(name, "ok", f"{uri} (not asked)")
        return
    address = _address(mirror)
    if address is None:
        yield Symptom(name, "ok", f"{uri} (its source names no address to ask)")
        return
    private = mirror.settings.options.get("allow_private")
    if private is None:
        private = is_local_name(origin(address)[1])
    try:
        with Session(allow_private=bool(private), limits=_LIMITS) as session:
            reply = session.politely(mirror.settings.net.manners()).head(address, redirects=3)
    except (NeuromirrorError, ValueError) as error:
        message = f"{error}; see to the network, a proxy, or the address in {path}"
        yield Symptom(name, "error", message)
        return
    if "Date" in reply.headers:
        theirs = stated_date(reply.headers["Date"])
        if theirs is not None:
            took((datetime.now(UTC) - theirs).total_seconds())
    if reply.status in (401, 403) or reply.status >= 500:
        message = f"{uri} answers HTTP {reply.status}: it may refuse this machine, or want a token"
        yield Symptom(name, "warning", message)
        return
    yield _listed(name, uri, mirror)


def _listed(name: str, uri: str, mirror: Mirror) -> Symptom:
    """Whether the archive lists datasets; that something answers at its address proves nothing."""
    try:
        first = next(iter(mirror.open().datasets()), None)
    except Forbidden as error:
        message = f"{error}; it may refuse this machine, or want a token"
        return Symptom(name, "warning", message)
    except (NeuromirrorError, OSError, ValueError) as error:
        message = f"{uri} gives no list of datasets: {error}; check the address in {mirror.path}"
        return Symptom(name, "error", message)
    if first is None:
        return Symptom(name, "warning", f"{uri} answers, and lists no dataset")
    return Symptom(name, "ok", f"{uri} answers, and lists datasets")


def _report(path: Path, store: Path, *, again: bool) -> Iterator[Symptom]:
    """What the last report about a mirror's archive says, and what changed since if ``again``."""
    try:
        kept = Store.open(store).archive_report_path(path.stem)
        before = load_report(kept.read_bytes())
    except (FileNotFoundError, NotAStore):
        return
    except (OSError, ReportUnusable) as error:
        message = f"{error}; run 'neuromirror check-archive {path.stem}' again"
        yield Symptom(f"archive {path.stem}", "warning", message)
        return
    name = f"archive {path.stem}"
    rules = ", ".join(one.rule for one in before.broken)
    yield Symptom(
        name,
        "warning" if rules else "ok",
        f"checked {before.at}: {f'broken are {rules}' if rules else 'no rule is broken'}",
    )
    if not again:
        return
    try:
        mirror = load_mirror(path)
        after = check_archive(mirror.open(), path.stem, mirror.settings.source)
    except (ConfigurationError, OSError) as error:
        yield Symptom(name, "error", str(error))
        return
    changes = list(compare_reports(before, after))
    for then, now in changes:
        message = f"{now.rule} was {then.status} ({then.observed}), is {now.status}: {now.observed}"
        yield Symptom(name, "warning", message)
    if not changes:
        yield Symptom(name, "ok", f"as in the report ({after.requests} requests)")


def _address(mirror: Mirror) -> str | None:
    """What answers a small request: the base of an API, or a bucket."""
    options = mirror.settings.options
    api = options.get("api")
    if isinstance(api, str):
        return api
    bucket = options.get("bucket")
    if isinstance(bucket, str):
        region, endpoint = options.get("region"), options.get("endpoint")
        with Session() as session:
            place = S3Bucket(
                session,
                bucket,
                region=region if isinstance(region, str) else "us-east-1",
                endpoint=endpoint if isinstance(endpoint, str) else None,
            )
        return place.object_url(b"")
    return None


def _clock(ahead: list[float]) -> Symptom:
    """The clock beside that of most archives."""
    off = sorted(ahead)[len(ahead) // 2]
    if abs(off) <= _OFF:
        return Symptom("clock", "ok", f"within {_OFF:.0f} s of the archives'")
    side = "ahead of" if off > 0 else "behind"
    message = f"{abs(off):.0f} s {side} the archives'; set it by NTP (timedatectl set-ntp true)"
    return Symptom("clock", "error" if abs(off) > _FAR_OFF else "warning", message)
