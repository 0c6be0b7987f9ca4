"""The vaults in a clone's git-annex branch that are read without git-annex."""

from __future__ import annotations

from collections.abc import Mapping

from neuromirror.annex import VaultAddress, vault_addresses
from neuromirror.transfer.annex_settings import AnnexSettings


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
