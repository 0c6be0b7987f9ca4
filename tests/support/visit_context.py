"""A visit context with given values."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from neuromirror.model import Location
from neuromirror.sources import KnownContent


class FakeVisitContext:
    """Return a :class:`neuromirror.sources.VisitContext` with given values."""

    def __init__(
        self,
        location: Callable[[str], Location | None] = lambda _url: None,
        contents: Mapping[str, KnownContent] | None = None,
        memo: bytes | None = None,
        workspace: Path = Path("nowhere"),
        *,
        deep: bool = False,
        refusals_last: bool = False,
    ) -> None:
        self._location = location
        self._contents = dict(contents or {})
        self.memo = memo
        self.workspace = workspace
        self.deep = deep
        self._lasting = refusals_last

    def locations(self, urls: Sequence[str]) -> list[Location | None]:
        return [self._location(url) for url in urls]

    def record_refusal(self, url: str) -> bool:
        return self._lasting

    def contents(self, etags: Sequence[str]) -> list[KnownContent | None]:
        return [self._contents.get(etag) for etag in etags]


EMPTY_CONTEXT = FakeVisitContext()
