"""``datalad mirror-pin``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from datalad.distribution.dataset import datasetmethod
from datalad.interface.base import Interface, build_doc, eval_results
from datalad.support.constraints import EnsureNone, EnsureStr
from datalad.support.param import Parameter
from msgspec.structs import replace

from neuromirror.datalad_ext.common import (
    DATASET,
    STORE,
    ResultRecord,
    as_tuple,
    failure_result,
    lock_path,
    open_index,
    open_store,
    outcome_result,
    path_option,
    reference_path,
    resolve_datalad_path,
    split_version,
)
from neuromirror.model import NeuromirrorError


@build_doc
class MirrorPin(Interface):  # type: ignore[misc]
    """Write exact versions of mirrored datasets to a lock file

    The lock file, 'datasets.lock', lists the commits of the datasets that a project uses. The
    folder 'datasets.lock.d' beside it holds the manifests to restore them from, and git bundles on
    request. Save both in the project's repository:
    'datalad save -m "pin" datasets.lock datasets.lock.d'. Later, 'neuromirror restore' gets exactly
    these bytes again, even if the mirror no longer exists.

    If a dataset is already pinned, its pin is replaced.
    """

    _params_: ClassVar[dict[str, Any]] = {
        "version": Parameter(
            args=("version",),
            metavar="VERSION",
            nargs="*",
            doc="""versions to pin, such as dandi:000027@0.210831.2033. The default label is the
            latest version. The folder of a clone pins the version that is checked out""",
            constraints=EnsureStr() | EnsureNone(),
        ),
        "dataset": DATASET,
        "lock": path_option(
            "--lock",
            doc="""the lock file, created if it does not exist. By default datasets.lock in the
            dataset given by --dataset, or in the current directory""",
        ),
        "glob": Parameter(
            args=("--glob",),
            metavar="GLOB",
            action="append",
            doc="""pin only matching paths: sub-01, sub-*/anat, **/*.nwb. Can be given several
            times""",
        ),
        "bundle": Parameter(
            args=("--bundle",),
            action="store_true",
            doc="""write git bundles beside the lock file, from which the datasets can be cloned""",
        ),
        "clone": Parameter(
            args=("--clone",),
            metavar="URL",
            action="append",
            doc="""where the datasets can be cloned from: a store (ria+https://...), or a URL with
            {alias} or {id} in it. Can be given several times""",
        ),
        "remove": Parameter(
            args=("--remove",),
            metavar="NAME",
            action="append",
            doc="""remove the pin of a dataset (dandi:000027). Can be given several times""",
        ),
        "store": STORE,
    }
    _examples_: ClassVar[list[dict[str, str]]] = [
        {
            "text": "Pin two versions in the current dataset, with bundles",
            "code_py": "mirror_pin(['dandi:000027', 'aind:ecephys_1'], dataset='.', bundle=True)",
            "code_cmd": "datalad mirror-pin -d . --bundle dandi:000027 aind:ecephys_1",
        },
    ]

    @staticmethod
    @datasetmethod(name="mirror_pin")  # type: ignore[untyped-decorator]
    @eval_results  # type: ignore[untyped-decorator]
    def __call__(
        version: Any = None,
        *,
        dataset: Any = None,
        lock: str | None = None,
        glob: Any = None,
        bundle: bool = False,
        clone: Any = None,
        remove: Any = None,
        store: str | None = None,
    ) -> Iterator[ResultRecord]:
        """Yield a result for each version."""
        from neuromirror.lab import PinRequest, pin
        from neuromirror.lab.pin import pin_request_for_clone

        path, refds = lock_path(lock, dataset), reference_path(dataset)
        globs, clones = as_tuple(glob) or None, as_tuple(clone) or None
        try:
            opened = open_store(store)
            with open_index(opened) as index:
                requests = []
                for one in as_tuple(version):
                    folder = resolve_datalad_path(one, dataset)
                    if folder.is_dir():
                        request = pin_request_for_clone(folder, index)
                    else:
                        request = PinRequest(*split_version(one))
                    requests.append(
                        replace(request, paths=globs, clones=clones, bundle=bundle or None)
                    )
                for outcome in pin(path, requests, opened, index, remove=as_tuple(remove)):
                    yield outcome_result(outcome, "mirror_pin", path, "file", refds)
        except NeuromirrorError as error:
            yield failure_result("mirror_pin", path, "file", refds, error)
