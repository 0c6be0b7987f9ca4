"""``neuromirror check-config``."""

from __future__ import annotations

import sys

from neuromirror.cli.commands import command
from neuromirror.cli.common import Settings, settings_options


@command("check-config", example="neuromirror check-config --mirrors mirrors")
@settings_options
def check_config_command(settings: Settings) -> None:
    """Check the configuration files of mirrors, without requests.

    Every file is checked, and every invalid file is reported.

    Exit code: 0 all files are valid, 2 a file is invalid.
    """
    from neuromirror.crawl import list_mirror_files, load_mirror
    from neuromirror.model import ConfigurationError

    code = 0
    for path in list_mirror_files(settings.mirrors_folder):
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
        settings.emit("check-config", record, f"ok     {mirror.name}: {kind} at {source.uri}")
    sys.exit(code)
