"""Settings of git-annex for repositories that neuromirror reads and fills."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Final

from neuromirror.annex import VaultAddress, vault_addresses
from neuromirror.git import GitError, call_git, git_environment


def disabled_filters() -> dict[str, str]:
    """Return environment variables with which git runs no filter but git-annex's.

    A foreign ``.gitattributes`` could activate any filter that the user has configured (git-lfs
    would contact its server).
    """
    options = ("-z", "--name-only", "--get-regexp", r"^filter\.")
    done = call_git(git_environment(None), "config", *options, folder=Path(os.sep))
    names = {os.fsdecode(name).rpartition(".")[0] for name in done.stdout.split(b"\0")[:-1]}
    off = {"clean": "", "smudge": "", "process": "", "required": "false"}
    pairs = [(f"{name}.{key}", off[key]) for name in names - {"filter.annex"} for key in off]
    first = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    found = {"GIT_CONFIG_COUNT": str(first + len(pairs))}
    for number, (key, value) in enumerate(pairs, first):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found if pairs else {}


_LIST_CONFIG: Final = ("config", "--list", "-z", "--includes", "--show-scope")
_RESERVE: Final = 100_000_000
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)")
_UNITS: Final = {"": 1, "b": 1, "byte": 1} | {
    name: base**power
    for power, prefix in enumerate(
        ("kilo", "mega", "giga", "tera", "peta", "exa", "zetta", "yotta"), 1
    )
    for base, names in (
        (1000, (prefix[0], f"{prefix[0]}b", f"{prefix}byte")),
        (1024, (f"{prefix[0]}ib", f"{prefix[:2]}bibyte")),
    )
    for name in names
}
_TRUE: Final = frozenset({"true", "yes", "on", "1", ""})
_VERSIONS: Final = frozenset({"8", "9", "10"})
_UNSHARED: Final = frozenset({"", "umask", "false", "0", "no", "off"})

_UNSUPPORTED_FLAGS: Final = (
    "annex.crippledfilesystem",
    "annex.pidlock",
    "annex.tune.objecthash1",
    "annex.tune.objecthashlower",
    "annex.tune.branchhash1",
)
_UNSUPPORTED_COMMANDS: Final = (
    "annex.freezecontent-command",
    "annex.thawcontent-command",
    "annex.web-options",
    "annex.http-headers-command",
    "annex.bwlimit",
    "annex.bwlimit-download",
)
_UNSUPPORTED_HOOKS: Final = ("freezecontent-annex", "thawcontent-annex", "http-headers-annex")
_COMMIT_COMMANDS: Final = ("annex.commitmessage-command", "annex.post-update-command")
_COMMIT_HOOKS: Final = ("commitmessage-annex", "post-update-annex")


class AnnexSettings:
    """The git configuration of a clone, as far as git-annex obeys it when it gets files.

    As in git, names are lower case except for a subsection.

    Parameters
    ----------
    values
        The values of each setting, the effective one last.
    own
        Names and values of the settings of the repository itself, including included files.
    """

    def __init__(
        self, values: Mapping[str, Sequence[str]], own: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._values = values
        self.own = own

    @classmethod
    def load(cls, git_dir: Path) -> AnnexSettings:
        """Read the configuration of a repository with ``git config``; raises GitError."""
        environment = git_environment(git_dir, fetch_missing=True)
        return _parse_config(call_git(environment, *_LIST_CONFIG), git_dir)

    def get(self, name: str, default: str = "") -> str:
        """Return the effective value of a setting: the last one."""
        found = self._values.get(name)
        return found[-1] if found else default

    def is_true(self, name: str, *, default: bool = False) -> bool:
        """Return a setting as a boolean, parsed as git does."""
        found = self._values.get(name)
        if not found:
            return default
        return found[-1].strip().lower() in _TRUE

    def subsections(self, section: str) -> dict[tuple[str, str], str]:
        """Return the settings ``section.SUBSECTION.name``, by subsection and name."""
        found = {}
        for name in self._values:
            head, _, setting = name.rpartition(".")
            if head.startswith(f"{section}.") and (value := self.get(name).strip()):
                found[head.removeprefix(f"{section}."), setting] = value
        return found

    def remotes(self) -> list[str]:
        """Return the names of all configured remotes, including special remotes."""
        names = [name[7:].rpartition(".")[0] for name in self._values if name[:7] == "remote."]
        return [name for name in dict.fromkeys(names) if name]

    @property
    def disk_reserve(self) -> int:
        """Bytes to leave free on the disk (``annex.diskreserve``)."""
        return _parse_size(self.get("annex.diskreserve"), _RESERVE)

    @property
    def schemes(self) -> frozenset[str]:
        """URL schemes that are allowed by the configuration and supported by this package."""
        allowed = self.get("annex.security.allowed-url-schemes", "http https").split()
        return frozenset({"http", "https"}.intersection(allowed))

    @property
    def allowed_addresses(self) -> list[str]:
        """Values of ``annex.security.allowed-ip-addresses``, or of its old name."""
        old = self.get("annex.security.allowed-http-addresses")
        return self.get("annex.security.allowed-ip-addresses", old).split()

    @property
    def verifies_content(self) -> bool:
        """Whether git-annex verifies all content that it gets."""
        names = ["annex.verify", *(f"remote.{name}.annex-verify" for name in self.remotes())]
        return all(self.is_true(name, default=True) for name in names)

    @property
    def headers(self) -> dict[str, str]:
        """Headers for each request (``annex.http-headers``); raises GitError if malformed."""
        found = {}
        for line in self._values.get("annex.http-headers", ()):
            name, colon, value = line.partition(":")
            if not colon or not name.strip() or not line.isprintable() or not line.isascii():
                raise GitError(
                    "annex.http-headers: a value is not a header (NAME: VALUE); correct it"
                )
            found[name.strip()] = value.strip()
        return found

    def _find_hook(self, git_dir: Path, names: Iterable[str]) -> str | None:
        """Return the first of the named hooks that exists in a repository; None if none exists."""
        folders = [git_dir / "hooks"]
        if self.get("core.hookspath"):
            folders.append(git_dir.parent / self.get("core.hookspath"))
        return next((one for one in names for at in folders if (at / one).exists()), None)

    def can_commit_directly(self, git_dir: Path) -> bool:
        """Return whether git alone may commit to the git-annex branch.

        It may if no hook, command or signature is due.
        """
        return not (
            any(self.get(name) for name in _COMMIT_COMMANDS)
            or self._find_hook(git_dir, _COMMIT_HOOKS)
            or self.is_true("annex.allowsign")
        )

    def delegation_reason(self, git_dir: Path) -> str | None:
        """Return why git-annex itself must get all files, None if this package can."""
        if self.get("annex.version", "10") not in _VERSIONS:
            return f"unsupported repository version {self.get('annex.version')} (annex.version)"
        for name in _UNSUPPORTED_FLAGS:
            if self.is_true(name):
                return f"{name} is set"
        for name in _UNSUPPORTED_COMMANDS:
            if self.get(name):
                return f"{name} is set"
        if hook := self._find_hook(git_dir, _UNSUPPORTED_HOOKS):
            return f"the hook {hook} is set up"
        if self.get("extensions.objectformat", "sha1").lower() != "sha1":
            return "unsupported object format, not SHA-1 (extensions.objectFormat)"
        if not self.is_true("core.symlinks", default=True):
            return "the file system does not support symlinks (core.symlinks)"
        if self.get("core.sharedrepository").lower() not in _UNSHARED:
            return "core.sharedRepository is set"
        return None


def settings_in_folder(folder: Path) -> AnnexSettings:
    """Return the git configuration that applies in a folder, in a repository or not.

    Parameters
    ----------
    folder
        The folder.

    Returns
    -------
    AnnexSettings
        The configuration.

    Raises
    ------
    GitError
        git cannot read it.
    """
    listed = call_git(git_environment(None), "-C", str(folder), *_LIST_CONFIG)
    return _parse_config(listed, folder)


def _parse_config(listed: CompletedProcess[bytes], folder: Path) -> AnnexSettings:
    if listed.returncode:
        message = listed.stderr.decode(errors="replace").strip()
        raise GitError(f"git cannot read the configuration of {folder}: {message}")
    values: dict[str, list[str]] = {}
    own: list[tuple[str, str]] = []
    fields = listed.stdout.decode("utf-8", "surrogateescape").split("\0")
    for scope, entry in zip(fields[::2], fields[1::2], strict=False):
        name, equals, value = entry.partition("\n")
        value = value if equals else "true"
        values.setdefault(name, []).append(value)
        if scope in ("local", "worktree"):
            own.append((name, value))
    return AnnexSettings(values, own)


def _parse_size(text: str, default: int) -> int:
    """Parse a size as git-annex does: ``1 gigabyte``, ``0.5tb``, ``100 MiB``, ``1000000``."""
    found = _SIZE.match(text.lower())
    if found is None:
        return default
    unit = _UNITS.get(found[2], _UNITS.get(found[2].removesuffix("s")))
    return default if unit is None else round(float(found[1]) * unit)


def enabled_vaults(
    configs: Mapping[str, Mapping[str, str]], settings: AnnexSettings
) -> dict[str, VaultAddress]:
    """Return the vaults from which contents may be read, by UUID.

    A vault at a path of this machine is included only if it is a remote of the clone: the branch
    may come from another machine. A vault at a URL need not be one.

    Parameters
    ----------
    configs
        The configurations of remotes in ``remote.log``, by UUID.
    settings
        The git configuration of the clone.

    Returns
    -------
    dict[str, VaultAddress]
        UUID → vault. Remotes with ``annex-ignore`` are omitted.
    """
    found = {}
    for uuid, vault in vault_addresses(configs).items():
        # git-annex sets the UUID of a new remote when it uses it first
        names = [
            name
            for name in settings.remotes()
            if settings.get(f"remote.{name}.annex-uuid", uuid) == uuid
            and (name == configs[uuid]["name"] or settings.get(f"remote.{name}.url") == vault.base)
        ]
        if any(settings.is_true(f"remote.{name}.annex-ignore") for name in names):
            continue
        urls = {settings.get(f"remote.{name}.url") for name in names}
        if vault.is_url or vault.base in urls:
            found[uuid] = vault
    return found
