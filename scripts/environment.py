"""Create or update the environment of the checkout in ``.venv``; started by ``scripts/bootstrap``.

Uses only the standard library, since it runs before anything is installed. A file in ``.venv``
records the inputs of the environment; if they are unchanged, nothing is done. Another file marks an
installation in progress: if it exists at the start, an earlier run was interrupted, and the
environment is re-created.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
PIP_OPTIONS = ("--quiet", "--no-user", "--no-compile")
UV_VARIABLES = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY"}
"""The variables of uv for settings of pip."""
STAMP = VENV / "neuromirror-made-of.json"
UNFINISHED = VENV / "neuromirror-unfinished"
HASHED = {name: f"requirements/{name}.txt" for name in ("build", "service", "all", "test")}
"""Versions and hashes of packages: to build others, for the container, for users, for tests."""
INPUTS = ("setup.cfg", "pyproject.toml", *HASHED.values(), "src/neuromirror/__init__.py")

CLIENTS = ROOT / "tests" / "clients"
"""Pinned packages of programs that tests start in environments of their own, ``<name>.txt``."""
CLIENT_VENVS = ROOT / ".venv-clients"
CLIENT_SECONDS = 900.0
"""Time limit of an installation, so that CI does not wait for a package that does not come."""

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""Programs that the browser tests can use; the first one that is installed is used."""

# Settings of pip that would change what is installed or where. Settings of the source of packages
# (an index, a proxy, certificates, a cache) are left to the user.
MISLEADING = {
    "PIP_CONSTRAINT",
    "PIP_DRY_RUN",
    "PIP_EDITABLE",
    "PIP_IGNORE_INSTALLED",
    "PIP_NO_DEPS",
    "PIP_PREFIX",
    "PIP_PYTHON",
    "PIP_REPORT",
    "PIP_REQUIREMENT",
    "PIP_REQUIRE_HASHES",
    "PIP_ROOT",
    "PIP_TARGET",
    "PIP_USER",
    "PIP_VERBOSE",
}


_PACKAGE_MANAGER = threading.Lock()
"""apt-get refuses to run while another one is running."""


def say(text: str) -> None:
    """Print a line on stderr."""
    print(f"neuromirror: {text}", file=sys.stderr, flush=True)


def give_up(text: str) -> NoReturn:
    """Print a line with advice, and exit with 1."""
    say(text)
    raise SystemExit(1)


def start(
    command: Sequence[str | os.PathLike[str]],
    printed: IO[bytes],
    seconds: float | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Run a program, for at most ``seconds``, with its output in a file; return its exit code."""
    surroundings = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    surroundings |= {
        "DEBIAN_FRONTEND": "noninteractive",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_PROGRESS_BAR": "off",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PYTHONNOUSERSITE": "1",
    }
    return subprocess.run(
        command,
        env=surroundings | dict(variables),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=subprocess.STDOUT,
        close_fds=False,  # the child keeps the lock, even if this process is killed
        check=False,
        timeout=seconds,
    ).returncode


def run(command: Sequence[str | os.PathLike[str]], what: str, seconds: float | None = None) -> None:
    """Run a program, for at most ``seconds``; print its output only if it fails."""
    with tempfile.TemporaryFile() as printed:
        try:
            code = start(command, printed, seconds)
        except subprocess.TimeoutExpired:
            give_up(f"{what} took more than {seconds:g} s")
        if code:
            printed.seek(0)
            sys.stderr.write(printed.read().decode(errors="replace"))
            give_up(f"{what} failed (see above)")


def succeeds(
    command: Sequence[str | os.PathLike[str]],
    seconds: float | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> bool:
    """Run a program without showing its output; return whether it succeeded in time."""
    with tempfile.TemporaryFile() as printed, suppress(subprocess.TimeoutExpired):
        return start(command, printed, seconds, variables) == 0
    return False


def uv_variables() -> dict[str, str]:
    """Return pip's index, certificates and proxy as variables of uv, which does not read them."""
    listed = subprocess.run(
        [PYTHON, "-I", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    # a line of pip: global.index-url='https://…'; later ones take precedence
    found = re.findall(r"(?m)^\S+\.(index-url|cert|proxy)='(.*)'$", listed)
    return {UV_VARIABLES[name]: value for name, value in found}


def install_packages(
    python: Path,
    packages: Sequence[str | os.PathLike[str]],
    what: str,
    seconds: float | None = None,
) -> None:
    """Install packages into an environment, without compiling them.

    uv takes a quarter of pip's time. If it fails, pip installs the packages or reports the error.
    """
    uv = [PYTHON, "-I", "-m", "uv", "pip", "install", "--quiet", "--python", python]
    if not succeeds([*uv, *packages], seconds, uv_variables()):
        pip = [PYTHON, "-I", "-m", "pip", "--python", python, "install", *PIP_OPTIONS]
        run([*pip, *packages], f"installing {what}", seconds)


def describe(extra: str, version: str) -> dict[str, str]:
    """Return the record of an environment; an equal record means nothing to do.

    ``extra`` is ``all``, or ``test`` for an environment with the dependency group too.
    """
    digest = hashlib.sha256()
    for name in INPUTS:
        content = (ROOT / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return {
        "root": str(ROOT),  # an environment has absolute paths, so it cannot be moved
        "python": version,
        "inputs": digest.hexdigest(),
        "extra": extra,
    }


def installed() -> dict[str, str]:
    """Return the environment's stored record; empty if it does not exist or is incomplete."""
    if UNFINISHED.exists():
        return {}
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def version_of(python: Path) -> str:
    """Return the version of a Python, such as ``3.11``; empty if it is broken or lacks pip."""
    probe = (
        "import importlib.util as u, sys;"
        "print('%d.%d' % sys.version_info[:2] if u.find_spec('pip') else '')"
    )
    try:
        ended = subprocess.run(
            [python, "-I", "-c", probe], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""


def make_empty() -> None:
    """Create an environment with pip, marked as unfinished."""
    if VENV.is_symlink() or VENV.is_file():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    UNFINISHED.touch()
    # Debian has ensurepip in a separate package.
    complete = [sys.executable, "-I", "-c", "import ensurepip, venv"]
    if subprocess.run(complete, capture_output=True, check=False).returncode == 0:
        run([sys.executable, "-I", "-m", "venv", VENV], "creating .venv")
        return
    if importlib.util.find_spec("pip") and importlib.util.find_spec("venv"):
        run([sys.executable, "-I", "-m", "venv", "--without-pip", VENV], "creating .venv")
        run(
            [sys.executable, "-I", "-m", "pip", "--python", PYTHON, "install", "pip"],
            "installing pip",
        )
        return
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if not (may_install() and sys.executable.startswith("/usr/bin/")):
        command = f"sudo apt-get install {package}" if shutil.which("apt-get") else "ensurepip"
        give_up(
            f"{sys.executable} cannot create environments, because it lacks ensurepip;"
            f" install it ({command}) and run this script again"
        )
    install(package)
    run([sys.executable, "-I", "-m", "venv", VENV], "creating .venv")


def may_install() -> bool:
    """Return whether system packages can be installed without asking the user."""
    return bool(shutil.which("apt-get")) and os.geteuid() == 0


def install(*packages: str) -> None:
    """Install Debian packages."""
    named = ", ".join(packages)
    apt: list[str | os.PathLike[str]] = ["apt-get", "-qq"]
    with _PACKAGE_MANAGER:
        say(f"installing {named} with apt-get")
        run([*apt, "update"], "apt-get update")
        run([*apt, "install", "-y", "--no-install-recommends", *packages], f"installing {named}")


def in_ci() -> bool:
    """Return whether no test may be skipped because something is missing."""
    return os.environ.get("CI", "") not in ("", "false")


def lacking_in_ci() -> list[str]:
    """Return the missing Debian packages of programs that tests require in CI only.

    Tests check the unit of the service with systemd, open the catalogue in a browser, which comes
    without a font, and download exported lists. Outside CI such tests are skipped.
    """
    packages = []
    if not shutil.which("systemd-analyze"):
        packages.append("systemd")
    if not any(map(shutil.which, BROWSERS)):
        packages += ["chromium-headless-shell", "fonts-dejavu-core"]
    if not shutil.which("wget"):
        packages.append("wget")
    if not shutil.which("aria2c"):
        packages.append("aria2")
    return packages


def complete_system(extra: str) -> None:
    """Install system packages that small containers lack.

    git-annex's HTTP client looks up ``tcp`` in a file of the package netbase, and fails without it.
    """
    if sys.platform != "linux":
        return
    if not Path("/etc/protocols").exists():
        if not may_install():
            give_up(
                "git-annex needs the file /etc/protocols for HTTP; install its package"
                " (Debian: sudo apt-get install netbase) and run this script again"
            )
        install("netbase")
    if extra == "test" and in_ci() and may_install() and (packages := lacking_in_ci()):
        install(*packages)


def bring_up_to_date(extra: str) -> None:
    """Create or update ``.venv`` with all extras and, for ``test``, the group of that name."""
    have = installed()
    version = version_of(PYTHON) if have or (VENV.exists() and not UNFINISHED.exists()) else ""
    chosen = f"{sys.version_info.major}.{sys.version_info.minor}"
    other_python = "PYTHON" in os.environ and version != chosen
    if have and version and not other_python:
        # the environment for tests includes the other one
        if have in (describe(extra, version), describe("test", version)):
            return
        if have.get("root") != str(ROOT) or have.get("python") != version:
            version = ""
        elif have.get("extra") == "test":
            extra = "test"
    if version and not other_python:
        say("updating .venv …")
        UNFINISHED.touch()
    else:
        say(f"creating .venv with Python {chosen} (once; this takes a minute or more) …")
        make_empty()
        version = chosen
    STAMP.unlink(missing_ok=True)
    # setuptools first: an isolated build would fetch any version. pip too, which should not replace
    # itself during an installation.
    pip = [PYTHON, "-I", "-m", "pip", "install", *PIP_OPTIONS]
    run([*pip, "--require-hashes", "--requirement", HASHED["build"]], "installing setuptools")
    options = ["--no-build-isolation", "--require-hashes", "--requirement", HASHED[extra]]
    install_packages(PYTHON, options, "packages")
    # a folder has no hash
    own = ["--no-build-isolation", "--no-deps", "--editable", "."]
    install_packages(PYTHON, own, "neuromirror")
    if extra == "all":
        compile_packages()
    start_git_annex_directly()
    STAMP.write_text(json.dumps(describe(extra, version)))
    UNFINISHED.unlink()


def make_client_environments() -> bool:
    """Create or update the environment of each file of :data:`CLIENTS`; return whether all are.

    If one cannot be created, the error is printed, and the tests that need it fail in CI.
    """

    def make(pinned: Path) -> bool:
        with suppress(SystemExit):
            try:
                make_client_environment(pinned)
                return True
            except OSError as error:
                say(f"creating .venv-clients/{pinned.stem} failed: {error}")
        return False

    with ThreadPoolExecutor(2) as several:
        made = list(several.map(make, sorted(CLIENTS.glob("*.txt"))))
    return all(made)


def make_client_environment(pinned: Path) -> None:
    """Create or update one environment; its file ``complete`` records what it was made of."""
    folder = CLIENT_VENVS / pinned.stem
    made_of = f"{sys.version}\n{folder}\n{pinned.read_text()}"
    complete = folder / "complete"
    if complete.exists() and complete.read_text() == made_of:
        return
    say(f"creating .venv-clients/{pinned.stem} …")
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-I", "-m", "venv", "--without-pip", folder], f"creating {folder}")
    python = folder / "bin" / "python"
    install_packages(python, ["--requirement", pinned], pinned.stem, CLIENT_SECONDS)
    complete.write_text(made_of)


def compile_packages() -> None:
    """Compile the installed packages, in one process per core.

    As with pip, files that cannot be compiled (templates, other syntax) are passed over. Not
    for the tests: they import half of their packages, which Python compiles then.
    """
    # newer versions of Python warn about the escape sequences of packages
    python = [PYTHON, "-I", "-W", "ignore", "-m", "compileall"]
    command = [*python, "-qq", "-j", "0", "-x", "/tests?/", VENV / "lib"]
    subprocess.run(command, stdout=subprocess.DEVNULL, close_fds=False, check=False)


def start_git_annex_directly() -> None:
    """Replaces pip's start script of git-annex by one that takes a third of the processor time.

    git and DataLad start git-annex thousands of times during the tests, each time with a Python
    that only starts the program. Both set ``MAGIC`` to the file types that come with it.
    """
    for program in VENV.glob("lib/python*/site-packages/git_annex/git-annex"):
        script = VENV / "bin" / "git-annex"
        script.unlink(missing_ok=True)
        magic, command = shlex.quote(f"{program.parent}/magic.mgc"), shlex.quote(str(program))
        script.write_text(f'#!/bin/sh\nexport MAGIC={magic}\nexec {command} "$@"\n', "utf-8")
        script.chmod(0o755)


def main() -> None:
    """Prepare the environment; wait while another process does so in the same checkout."""
    folder = os.open(ROOT, os.O_RDONLY)
    os.set_inheritable(folder, True)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another script that creates .venv …")
        fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        extra = "test" if sys.argv[1] == "clients" else sys.argv[1]
        # Both wait for downloads and run in one process each
        with ThreadPoolExecutor(1) as other:
            system = other.submit(complete_system, extra)
            bring_up_to_date(extra)
            system.result()
        if sys.argv[1] == "clients" and not make_client_environments():
            raise SystemExit(1)
    except KeyboardInterrupt:
        give_up("interrupted; run this script again to finish .venv")


if __name__ == "__main__":
    main()
