"""Pages of how things stand: events, mirrors, and addresses that no page has."""

from __future__ import annotations

from typing import Any

from datasette.utils.asgi import Response

from neuromirror.index import Index
from neuromirror.web.asked import Asked, NoSuchPage, view
from neuromirror.web.records import told_event, told_failure, told_mirror

_ON_A_PAGE = 100
_HOSTS = 100
_INCIDENTS = 5


@view
async def events(asked: Asked) -> Response:
    """What people should know, of one kind or mirror or of all."""
    kind, mirror = asked.value("kind"), asked.value("mirror")
    before = asked.whole("before", 1, 999_999_999) if asked.value("before") else None

    def look(index: Index) -> dict[str, Any]:
        found = list(
            index.events(
                kind=kind or None, mirror=mirror or None, before=before, limit=_ON_A_PAGE + 1
            )
        )
        return {
            "events": [told_event(one) for one in found[:_ON_A_PAGE]],
            "more": found[_ON_A_PAGE - 1].id if len(found) > _ON_A_PAGE else None,
            "kinds": index.event_kinds(),
            "mirrors": [one.mirror for one in index.mirror_status()],
        }

    told = await asked.ask(look)
    return await asked.page("events", kind=kind, mirror=mirror, before=before, **told)


@view
async def mirrors(asked: Asked) -> Response:
    """How each mirror stands, what waits for an operator, and which places answer no more."""

    def look(index: Index) -> dict[str, Any]:
        everywhere, oldest = index.asked_since()
        return {
            "mirrors": [told_mirror(one) for one in index.mirror_status()],
            "failures": [told_failure(one) for one in index.failures()],
            "holds": list(index.open_holds()),
            "ailing": index.ailing_hosts(_HOSTS),
            "everywhere": everywhere,
            "oldest": oldest,
            "incidents": [
                told_event(one) for one in index.events(kind="incident", limit=_INCIDENTS)
            ],
        }

    told = await asked.ask(look)
    store = asked.site.store
    checked = {one["mirror"]: store.last_checked(one["mirror"]) for one in told["mirrors"]}
    return await asked.page("mirrors", checked=checked, **told)


@view
async def unknown(asked: Asked) -> Response:
    """No page has this address."""
    raise NoSuchPage(f"there is no page /{asked.part('rest')[:200]}")
