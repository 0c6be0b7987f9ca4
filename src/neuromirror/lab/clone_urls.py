"""Clone URLs of datasets and their subdatasets.

A clone URL is a git URL (``https://host/alias/dandi--000027``), or the URL of a dataset in a RIA
store (``ria+https://host/#<dataset id>``, see ``datalad clone``). Subdatasets of a dataset in a
store are at ``<store>/<id[:3]>/<id[3:]>``.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urldefrag, urlsplit, urlunsplit

from neuromirror.model import ConfigurationError, DatasetRef
from neuromirror.net import clean_url, permanent_refusal, redact

CLONE_SCHEMES = ("https", "http", "ria+https", "ria+http", "ssh", "ria+ssh")
_RIA = "ria+"


def refuse_clone_url(url: str) -> None:
    """Reject a URL that is unsafe for git, or that has credentials.

    git runs programs for some URLs (``ext::``) and reads local files for others.

    Raises
    ------
    ConfigurationError
        The URL is rejected.
    """
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).netloc
    except ValueError:
        scheme = host = ""
    if scheme not in CLONE_SCHEMES or not host or any(ord(one) < 33 for one in url):
        raise ConfigurationError(
            f"{redact(url)[:200]!r} cannot be the clone URL of a lock file; it must start with one "
            f"of {', '.join(f'{one}://' for one in CLONE_SCHEMES)}, to work on every machine"
        )
    if host.startswith("-"):
        raise ConfigurationError(
            f"{url!r} cannot be the clone URL of a lock file: ssh would parse its host as an option"
        )
    if (reason := permanent_refusal(url)) is not None:
        raise ConfigurationError(
            f"{redact(url)[:200]} cannot be the clone URL of a lock file: its host is {reason}"
        )
    if "@" in host:
        raise ConfigurationError(
            f"{_without_credentials(url)}: the clone URL of a lock file cannot have a user name or "
            "password; remove it"
        )
    if "?" in url:
        raise ConfigurationError(
            f"{url.partition('?')[0]}?…: the clone URL of a lock file cannot have parameters, "
            "which may be tokens; remove them"
        )


def clone_urls(patterns: Sequence[str], dataset: DatasetRef) -> tuple[str, ...]:
    """Return the clone URLs of a dataset, without credentials and duplicates.

    A pattern is the URL of a RIA store (``ria+https://host/store``), a URL in which ``{id}`` is
    replaced by the dataset id and ``{alias}`` by the alias in the store, or a plain URL.
    """
    found: list[str] = []
    for pattern in patterns:
        # str.format would fail for other braces in the URL
        url = pattern.replace("{id}", dataset.dataset_id).replace("{alias}", dataset.alias)
        if url.startswith(_RIA) and not urldefrag(url).fragment:
            url = f"{url}#{dataset.dataset_id}"
        url = _without_credentials(url)
        refuse_clone_url(url)
        found.append(url)
    return tuple(dict.fromkeys(found))


def is_per_dataset(pattern: str) -> bool:
    """Return whether a pattern of URLs gives a different URL for each dataset."""
    ria = pattern.startswith(_RIA) and not urldefrag(pattern).fragment
    return ria or "{id}" in pattern or "{alias}" in pattern


def to_git_url(url: str) -> str:
    """Return the URL with which git clones what a RIA URL names; other URLs are unchanged.

    Raises
    ------
    ConfigurationError
        A RIA URL (``ria+…``) names no dataset after its ``#``.
    """
    if not url.startswith(_RIA):
        return url
    base, fragment = urldefrag(url.removeprefix(_RIA))
    name = fragment.partition("@")[0]
    base = base.rstrip("/")
    if name.startswith("~"):
        return f"{base}/alias/{name[1:]}"
    if len(name) < 4:
        raise ConfigurationError(f"{url} has no dataset; it must end in #<dataset id>")
    return f"{base}/{name[:3]}/{name[3:]}"


def subdataset_url(url: str, dataset_id: str) -> str:
    """Return the URL of a subdataset, given that of its dataset in a RIA store, and its id."""
    if url.startswith(_RIA):
        return f"{urldefrag(url).url}#{dataset_id}"
    parts = urlsplit(url)
    above = parts.path.rstrip("/").split("/")[:-2]
    path = "/".join([*above, dataset_id[:3], dataset_id[3:]])
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _without_credentials(url: str) -> str:
    """Remove credentials from a URL, and the fragment unless it is a RIA URL."""
    try:
        base, fragment = urldefrag(url)
        cleaned = clean_url(base)
    except ValueError as error:
        raise ConfigurationError(f"invalid clone URL: {error}") from error
    return f"{cleaned}#{fragment}" if fragment and url.startswith(_RIA) else cleaned
