"""``neuromirror publish``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import NamedPath, Settings, path_from_environment, settings_options
from neuromirror.model.errors import ConfigurationError

if TYPE_CHECKING:
    from neuromirror.config.sibling_files import Sibling

_LOCAL_SIBLINGS = Path("siblings")


@command(
    "publish",
    example="""\
neuromirror publish dandi:000027 --to lab-forge --dry-run
neuromirror publish dandi --to lab-forge
neuromirror publish --to lab-forge""",
)
@argument(
    "names",
    nargs=-1,
    metavar="[MIRROR | DATASET]...",
    help="Datasets (dandi:000027), or mirrors (dandi) for all their datasets and their "
    "superdataset [default: 'datasets' in the sibling file].",
)
@click.option(
    "--to", "sibling_name", required=True, metavar="SIBLING", help="Name of a sibling file."
)
@click.option(
    "--siblings",
    type=NamedPath(),
    metavar="DIR",
    help="Folder with sibling files (NAME.toml) [default: $NEUROMIRROR_SIBLINGS, else ./siblings].",
)
@click.option("--check", is_flag=True, help="Push unchanged datasets too.")
@click.option("--dry-run", is_flag=True, help="Print what would be pushed, and change nothing.")
@click.option(
    "--forget",
    "forgotten",
    metavar="DATASET",
    help="Push nothing; forget a dataset that you deleted at the sibling.",
)
@settings_options
def publish_command(
    settings: Settings,
    names: tuple[str, ...],
    *,
    sibling_name: str,
    siblings: Path | None,
    check: bool,
    dry_run: bool,
    forgotten: str | None,
) -> None:
    """Push datasets to a forge (GitHub, GitLab, Gitea, Forgejo, GIN) or a git server.

    Missing repositories are created, with description, topics and homepage. A repository has no
    content of files. No ref is forced. Private datasets are never pushed.

    \b
    A sibling file, siblings/lab-forge.toml:
      type = "gitea"
      api = "https://forge.example.org"
      owner = "lab"
      credential = "lab-forge"      # of "datalad credentials"
      datasets = ["dandi:*"]        # the service keeps them published
    """
    from neuromirror.crawl.recorder import PUBLISH
    from neuromirror.publish import forget, publish, record_outcome, sibling_datasets

    sibling = find_sibling(siblings, sibling_name)
    store = settings.store()
    if forgotten is not None:
        found = forget(store, sibling, forgotten)
        with settings.failure_log(store) as log:
            if log is not None:
                log.record_success(f"{PUBLISH} {sibling.name}", forgotten)
        status = "ok" if found else "notneeded"
        message = "forgotten" if found else f"it was not published to {sibling.name}"
        line = f"{status:<10} {forgotten}  {message}"
        settings.emit("publish", {"status": status, "dataset": forgotten, "message": message}, line)
        return
    unchanged, code = 0, 0
    with settings.failure_log(store) as log, settings.index() as index:
        selected = names or tuple(sibling_datasets(index, sibling.settings.datasets))
        if not selected:
            raise ConfigurationError(
                f"nothing to publish: name datasets or mirrors, or write patterns such as dandi:* "
                f"to 'datasets' in the file of sibling {sibling.name}"
            )
        for outcome in publish(store, index, selected, sibling, check=check, dry_run=dry_run):
            code = max(code, int(outcome.failed))
            if log is not None and not dry_run:
                record_outcome(log, sibling, outcome)
            where = (outcome.page or outcome.target or "") if outcome.status == "ok" else ""
            line = f"{outcome.status:<10} {outcome.path}  {outcome.message}  {where}".rstrip()
            is_unchanged = outcome.status == "notneeded"
            unchanged += is_unchanged
            settings.emit("publish", outcome.to_json(), None if is_unchanged else line)
    if unchanged:
        settings.print_text(f"notneeded  {unchanged} datasets are unchanged")
    sys.exit(code)


def siblings_folder(given: Path | None) -> Path:
    """Return the folder of sibling files; it need not exist.

    Raises
    ------
    ConfigurationError
        The user named no folder, and ./siblings would send a credential to a server of its choice.
    """
    from neuromirror.config.sibling_files import refuse_unbound_credentials

    named = given or path_from_environment("NEUROMIRROR_SIBLINGS")
    if named is not None:
        return named
    refuse_unbound_credentials(_LOCAL_SIBLINGS)
    return _LOCAL_SIBLINGS


def find_sibling(given: Path | None, name: str) -> Sibling:
    """Return a sibling by name.

    Raises
    ------
    ConfigurationError
        There is no such sibling file, or it is invalid.
    """
    from difflib import get_close_matches

    from neuromirror.config.sibling_files import load_sibling

    folder = siblings_folder(given)
    path = folder / f"{name}.toml"
    if "/" in name or not path.exists():
        known = sorted(one.stem for one in folder.glob("*.toml"))
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"existing: {', '.join(known) or 'none'}"
        raise ConfigurationError(
            f"{path}: no such sibling file ({hint}); 'neuromirror publish --help' shows an example"
        )
    return load_sibling(path)
