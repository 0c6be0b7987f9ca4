"""``neuromirror check-config``."""

from __future__ import annotations

import sys

from neuromirror.cli.commands import command
from neuromirror.cli.common import Settings, settings_options


@command("check-config", example="neuromirror check-config --mirrors mirrors")
@settings_options
def check_config_command(settings: Settings) -> None:
    """Check the configuration files of mirrors; send no request.

    If there is neither --mirrors nor ./mirrors, the built-in files are checked.
    """
    from neuromirror.config.builtin_mirrors import builtin_mirror_files
    from neuromirror.config.mirror_files import list_mirror_files, load_mirror
    from neuromirror.model import ConfigurationError

    code = 0
    folder = settings.mirrors_folder
    has_own = settings.given_mirrors is not None or folder.exists()
    for path in list_mirror_files(folder) if has_own else builtin_mirror_files().values():
        try:
            mirror = load_mirror(path)
            source = mirror.open()
        except ConfigurationError as error:
            code = 2
            record = {"path": str(path), "status": "error", "message": str(error)}
            settings.emit("check-config", record, f"error  {error}")
            continue
        kind = mirror.settings.source
        record = {"path": str(path), "mirror": mirror.name, "source": kind, "uri": source.uri}
        settings.emit(
            "check-config", record, f"ok     {mirror.name}: archive of type {kind} at {source.uri}"
        )
    sys.exit(code)
