"""Where a dataset can be cloned from, and where its sub-datasets are then.

A clone URL is git's own (``https://host/alias/dandi--000027``), or that of a dataset in a RIA store
(``ria+https://host/#<dataset id>``, docs.datalad.org, "clone"). Sub-datasets of a store's dataset
are at ``<store>/<id[:3]>/<id[3:]>``.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urldefrag, urlsplit, urlunsplit

from neuromirror.model import ConfigurationError, DatasetRef
from neuromirror.net import clean_url, redact

CLONE_SCHEMES = ("https", "http", "ria+https", "ria+http", "ssh", "ria+ssh")
_RIA = "ria+"


def refuse_clone_url(url: str) -> None:
    """Raises ConfigurationError for a URL that git must not be given, or that a lock may not hold.

    git would run programs for some (``ext::``), and read anything on this machine for others; what
    a URL tells that is nobody's business must not be kept.
    """
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).netloc
    except ValueError:
        scheme = host = ""
    if scheme not in CLONE_SCHEMES or not host or any(ord(one) < 33 for one in url):
        raise ConfigurationError(
            f"{redact(url)[:200]!r} cannot be a clone URL of a lock, which must hold everywhere: "
            f"it has to begin with one of {', '.join(f'{one}://' for one in CLONE_SCHEMES)}"
        )
    if host.startswith("-"):
        raise ConfigurationError(
            f"{url!r} cannot be a clone URL of a lock: ssh would take its host for an option"
        )
    if "@" in host:
        raise ConfigurationError(
            f"a clone URL of a lock must not hold a user's name or password: "
            f"{_without_credentials(url)}"
        )
    if "?" in url:
        raise ConfigurationError(
            "a clone URL of a lock must not hold parameters, which may be tokens: "
            f"{url.partition('?')[0]}?…"
        )


def clone_urls(patterns: Sequence[str], dataset: DatasetRef) -> tuple[str, ...]:
    """The clone URLs of a dataset, without credentials, each once.

    A pattern is the address of a RIA store (``ria+https://host/store``), a URL in which ``{id}``
    stands for the dataset id and ``{alias}`` for the store's name of it, or a URL as it is.
    """
    found: list[str] = []
    for pattern in patterns:
        # by hand: a URL may have other braces
        url = pattern.replace("{id}", dataset.dataset_id).replace("{alias}", dataset.alias)
        if url.startswith(_RIA) and not urldefrag(url).fragment:
            url = f"{url}#{dataset.dataset_id}"
        url = _without_credentials(url)
        refuse_clone_url(url)
        found.append(url)
    return tuple(dict.fromkeys(found))


def is_per_dataset(pattern: str) -> bool:
    """Whether a pattern gives each dataset a URL of its own."""
    ria = pattern.startswith(_RIA) and not urldefrag(pattern).fragment
    return ria or "{id}" in pattern or "{alias}" in pattern


def to_git_url(url: str) -> str:
    """The URL that git clones from; raises ConfigurationError for a RIA URL without a dataset."""
    if not url.startswith(_RIA):
        return url
    base, fragment = urldefrag(url.removeprefix(_RIA))
    name = fragment.partition("@")[0]
    base = base.rstrip("/")
    if name.startswith("~"):
        return f"{base}/alias/{name[1:]}"
    if len(name) < 4:
        raise ConfigurationError(f"{url} names no dataset: it must end in #<dataset id>")
    return f"{base}/{name[:3]}/{name[3:]}"


def subdataset_url(url: str, dataset_id: str) -> str:
    """Where a sub-dataset is, if what a URL leads to is in a store."""
    if url.startswith(_RIA):
        return f"{urldefrag(url).url}#{dataset_id}"
    parts = urlsplit(url)
    above = parts.path.rstrip("/").split("/")[:-2]
    path = "/".join([*above, dataset_id[:3], dataset_id[3:]])
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _without_credentials(url: str) -> str:
    """A URL without what must not be kept; a RIA URL goes on having its fragment."""
    try:
        base, fragment = urldefrag(url)
        cleaned = clean_url(base)
    except ValueError as error:
        raise ConfigurationError(f"what was given as clone URL is none: {error}") from error
    return f"{cleaned}#{fragment}" if fragment and url.startswith(_RIA) else cleaned
