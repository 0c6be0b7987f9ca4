"""Checks of an ndstore: lists and documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from neuromirror.conformance.report import Check, ConformanceFinding, name_checks
from neuromirror.net import HttpError
from neuromirror.sources.ndstore import NdstoreSource

_TRIED: Final = 3


def checks(source: NdstoreSource) -> Iterator[tuple[str, Check]]:
    """Return the name and the function of each check of an ndstore, in the order they run."""

    def lists() -> Iterator[ConformanceFinding]:
        """Check that public tokens are listed and describe their channels."""
        tokens: Any = source.session.get_json(f"{source.options.api}/public_tokens/")
        is_list = isinstance(tokens, list)
        yield ConformanceFinding(
            "ndstore.tokens",
            "ok" if is_list and tokens else "limited" if is_list else "broken",
            f"{len(tokens)} public tokens" if is_list else "the response is not a list",
        )
        for token in tokens[:_TRIED] if is_list else ():
            info: Any = source.session.get_json(f"{source.options.api}/{token}/info/")
            whole = isinstance(info, dict) and {"dataset", "channels"} <= info.keys()
            yield ConformanceFinding(
                "ndstore.info",
                "ok" if whole else "broken",
                f"{token}: {'dataset and channels' if whole else 'no dataset or channels'}",
            )

    def errors() -> Iterator[ConformanceFinding]:
        """Check that an unknown token returns 404."""
        status = 200
        try:
            source.session.get_json(f"{source.options.api}/neuromirror-no-such-token/info/")
        except HttpError as error:
            status = error.status or 0
        yield ConformanceFinding(
            "ndstore.not-found",
            "ok" if status == 404 else "broken",
            f"HTTP {status} for an unknown token",
        )

    return name_checks("ndstore", lists, errors)
