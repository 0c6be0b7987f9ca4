"""An extension of griffe, which reads the code for mkdocstrings."""

from __future__ import annotations

import re
from typing import Any, TypeGuard

import griffe

_ROLE = re.compile(r":(?:class|meth|func|attr|mod|data|exc):`(~?)([^`]+)`")


def plain(text: str) -> str:
    """Replace ``:class:`~a.b.C``` by ```C```; without the tilde the full name remains."""

    def shown(match: re.Match[str]) -> str:
        name = match[2].rpartition(".")[2] if match[1] else match[2]
        return f"`{name}`"

    return _ROLE.sub(shown, text)


def _is_alias(one: Any) -> TypeGuard[griffe.Alias]:
    return isinstance(one, griffe.Alias)


def _of_one_name(module: griffe.Module) -> griffe.Object | griffe.Alias | None:
    """Return the member of a module or package that has the module's own name."""
    member = module.members.get(module.name)
    return member.final_target if isinstance(member, griffe.Alias) else member


class Shown(griffe.Extension):
    """Removes Sphinx roles from docstrings, and prefers functions to modules of the same name.

    ``neuromirror.lab.pin`` is a function at import, and a module for griffe.
    """

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object that was just read."""
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, loader: Any, **_: Any) -> None:
        """After loading: resolve each package's public names to what they import."""
        for module in list(pkg.modules.values()):
            named = {str(name): module.members.get(str(name)) for name in module.exports or ()}
            # first all names that lead through a module, which is not found by its name afterwards
            leads: dict[str, griffe.Object | griffe.Alias | None] = {
                name: one.final_target for name, one in named.items() if _is_alias(one)
            }
            for name, one in named.items():
                if isinstance(one, griffe.Module) and name in module.imports:
                    leads[name] = _of_one_name(one)
            for name, target in leads.items():
                if target is not None and not target.is_module:
                    module.members[name] = griffe.Alias(name, target, parent=module)
