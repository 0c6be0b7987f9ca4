"""DataLad's names that the commands use, in one module, since DataLad has no type annotations."""

from __future__ import annotations

from datalad.distribution.dataset import (  # type: ignore[import-untyped]
    EnsureDataset,
    datasetmethod,
    require_dataset,
    resolve_path,
)
from datalad.interface.base import (  # type: ignore[import-untyped]
    Interface,
    build_doc,
    eval_results,
)
from datalad.interface.common_opts import recursion_flag  # type: ignore[import-untyped]
from datalad.interface.results import get_status_dict  # type: ignore[import-untyped]
from datalad.interface.utils import generic_result_renderer  # type: ignore[import-untyped]
from datalad.support.constraints import (  # type: ignore[import-untyped]
    EnsureChoice,
    EnsureInt,
    EnsureNone,
    EnsureStr,
)
from datalad.support.param import Parameter  # type: ignore[import-untyped]
from datalad.ui import ui  # type: ignore[import-untyped]

__all__ = [
    "EnsureChoice",
    "EnsureDataset",
    "EnsureInt",
    "EnsureNone",
    "EnsureStr",
    "Interface",
    "Parameter",
    "build_doc",
    "datasetmethod",
    "eval_results",
    "generic_result_renderer",
    "get_status_dict",
    "recursion_flag",
    "require_dataset",
    "resolve_path",
    "ui",
]
