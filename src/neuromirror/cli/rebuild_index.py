"""``neuromirror rebuild-index``."""

from __future__ import annotations

import sys

from neuromirror.cli.commands import command
from neuromirror.cli.common import Settings, settings_options


@command("rebuild-index", example="neuromirror rebuild-index")
@settings_options
def rebuild_index_command(settings: Settings) -> None:
    """Rebuild the index from the store.

    The index holds nothing that is not in the store, and no request is sent to an archive. If
    there are mirror files, their setting for the files of Zarrs ([zarr] index_entries) is applied
    to existing versions too; otherwise the setting of each version stays as it was.
    """
    from tqdm import tqdm

    from neuromirror.crawl import rebuild_index

    store = settings.store()
    path = settings.index_path(store)
    limits = {}
    # mirror files are optional here: they only matter for settings that changed since
    if any(settings.mirrors_folder.glob("*.toml")):
        limits = {name: one.settings.zarr for name, one in settings.local_mirrors().items()}
    with tqdm(unit="B", unit_scale=True, disable=None, leave=False, file=sys.stderr) as bar:

        def show(position: int) -> None:
            bar.update(position - bar.n)

        count = rebuild_index(store, path, show, limits)
    settings.emit(
        "rebuild-index",
        {"path": str(path), "entries": count},
        f"rebuilt {path} from {count} journal entries",
    )
