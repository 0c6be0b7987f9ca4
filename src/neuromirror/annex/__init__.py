"""git-annex's formats as pure functions: keys, pointers, paths, branch logs, XS3ETAG backend.

Names are imported on first use, because git-annex starts the program of the backend often.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromirror.annex.allowed_addresses import (
        ALLOWED_ADDRESSES,
        allow_command,
        host_without_port,
        is_private_host_allowed,
    )
    from neuromirror.annex.etags import EtagDigest, etag_of
    from neuromirror.annex.initialization import SkippedRemote, initialize, skipped_remotes_message
    from neuromirror.annex.key_paths import (
        hash_lower,
        hash_mixed,
        key_file_name,
        key_from_file_name,
        link_target,
        log_path,
        url_log_path,
    )
    from neuromirror.annex.keys import (
        key_digest,
        key_for,
        md5e_key,
        parse_key,
        record_of_key,
        sha256e_key,
        url_key,
    )
    from neuromirror.annex.logs import (
        WEB_UUID,
        location_log,
        merge_location_log,
        merge_url_log,
        parse_log,
        parse_remote_log,
        remote_log,
        url_lines,
        url_log,
    )
    from neuromirror.annex.paths import fits_path_limits, git_path, mark_clash, upstream_path
    from neuromirror.annex.pointers import (
        MAX_POINTER_BYTES,
        POINTER_PREFIX,
        find_pointer_key,
        is_pointer,
        parse_link_target,
        parse_pointer,
        pointer_content,
    )
    from neuromirror.annex.url_remotes import (
        CLAIM_PREFIX,
        CLAIMED_LOCATION_KINDS,
        UrlRemote,
        UrlRemotes,
        special_remote,
        strip_claim_prefix,
        untrusted_line,
        url_glob,
        uuid_line,
        web_remote,
    )
    from neuromirror.annex.vault_remotes import (
        BucketAccess,
        VaultAddress,
        VaultKind,
        directory_vault_config,
        find_local_copy,
        is_private_address,
        is_vault_url,
        private_vault_config,
        s3_vault_config,
        urls_with_copies,
        vault_address,
        vault_addresses,
    )
    from neuromirror.annex.zeros import is_all_zeros

__all__ = [
    "ALLOWED_ADDRESSES",
    "CLAIMED_LOCATION_KINDS",
    "CLAIM_PREFIX",
    "MAX_POINTER_BYTES",
    "POINTER_PREFIX",
    "WEB_UUID",
    "BucketAccess",
    "EtagDigest",
    "SkippedRemote",
    "UrlRemote",
    "UrlRemotes",
    "VaultAddress",
    "VaultKind",
    "allow_command",
    "directory_vault_config",
    "etag_of",
    "find_local_copy",
    "find_pointer_key",
    "fits_path_limits",
    "git_path",
    "hash_lower",
    "hash_mixed",
    "host_without_port",
    "initialize",
    "is_all_zeros",
    "is_pointer",
    "is_private_address",
    "is_private_host_allowed",
    "is_vault_url",
    "key_digest",
    "key_file_name",
    "key_for",
    "key_from_file_name",
    "link_target",
    "location_log",
    "log_path",
    "mark_clash",
    "md5e_key",
    "merge_location_log",
    "merge_url_log",
    "parse_key",
    "parse_link_target",
    "parse_log",
    "parse_pointer",
    "parse_remote_log",
    "pointer_content",
    "private_vault_config",
    "record_of_key",
    "remote_log",
    "s3_vault_config",
    "sha256e_key",
    "skipped_remotes_message",
    "special_remote",
    "strip_claim_prefix",
    "untrusted_line",
    "upstream_path",
    "url_glob",
    "url_key",
    "url_lines",
    "url_log",
    "url_log_path",
    "urls_with_copies",
    "uuid_line",
    "vault_address",
    "vault_addresses",
    "web_remote",
]

_MODULES = (
    "allowed_addresses",
    "etags",
    "initialization",
    "key_paths",
    "keys",
    "logs",
    "paths",
    "pointers",
    "url_remotes",
    "vault_remotes",
    "zeros",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = vars(import_module(f"{__name__}.{module}"))
            if name in found:
                globals()[name] = found[name]
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
