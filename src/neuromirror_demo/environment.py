"""Settings for commands that use the demo archives: a git configuration and variables."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

_GITCONFIG = """\
# Settings of git in the demo. The identity is used only if the user has none.
[user]
	name = Demo
	email = demo@example.invalid
[include]
{includes}
# git-annex refuses addresses of this machine by default, and the demo archives have such.
[annex "security"]
	allowed-ip-addresses = 127.0.0.1
"""

_ENVIRONMENT = """\
# Settings of the demo, for the current shell: . {path}
{exports}
"""


def demo_variables(folder: Path) -> dict[str, str]:
    """Return the environment variables for commands that use the demo archives of a folder."""
    return {
        "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
        "NEUROMIRROR_MIRRORS": str(folder / "mirrors"),
    }


def write_environment(folder: Path) -> None:
    """Write the git configuration and the shell script that sets the variables.

    Parameters
    ----------
    folder
        The folder of the demo, for the files ``gitconfig`` and ``environment``.
    """
    config, script = folder / "gitconfig", folder / "environment"
    includes = "\n".join(
        # git's quoting of strings is that of JSON
        f"\tpath = {json.dumps(path, ensure_ascii=False)}"
        for path in _user_configs()
        if Path(path) != config
    )
    config.write_text(_GITCONFIG.format(includes=includes), "utf-8")
    exports = "\n".join(
        f"export {name}={shlex.quote(value)}" for name, value in demo_variables(folder).items()
    )
    script.write_text(_ENVIRONMENT.format(path=shlex.quote(str(script)), exports=exports), "utf-8")


def _user_configs() -> list[str]:
    """Return the paths of git's global configuration of the user; they need not exist."""
    given = os.environ.get("GIT_CONFIG_GLOBAL")
    if given is not None:
        return [os.path.abspath(given)] if given else []
    home = os.path.expanduser("~")
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    return [os.path.join(config, "git", "config"), os.path.join(home, ".gitconfig")]
