"""``datalad mirror-pin``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from neuromirror.datalad_ext.of_datalad import (
    EnsureNone,
    EnsureStr,
    Interface,
    Parameter,
    build_doc,
    datasetmethod,
    eval_results,
)
from neuromirror.datalad_ext.records import (
    DATASET,
    STORE,
    Record,
    failure,
    index_of,
    listed,
    lock_of,
    place_of,
    record,
    refds_of,
    store_at,
    version_of,
)
from neuromirror.model import NeuromirrorError


@build_doc
class MirrorPin(Interface):  # type: ignore[misc]
    """Write exact versions of mirrored datasets into a lock

    The lock, 'datasets.lock', says which commits of which datasets a piece of work stands on; the
    folder beside it holds what brings them back: manifests, and git bundles where they are asked
    for. It belongs into the repository of the work, so save both:
    'datalad save -m "pin" datasets.lock datasets.lock.d'. Years later 'neuromirror restore' gets
    exactly these bytes again, even where the mirror is gone.

    A dataset that is pinned already gets the new version in its old place.
    """

    _params_: ClassVar[dict[str, Any]] = {
        "version": Parameter(
            args=("version",),
            metavar="VERSION",
            nargs="*",
            doc="""versions to pin, such as dandi:000027@0.210831.2033; without what follows the @
            it is the latest. The folder of a clone stands for the version that is checked out""",
            constraints=EnsureStr() | EnsureNone(),
        ),
        "dataset": DATASET,
        "lock": Parameter(
            args=("--lock",),
            metavar="PATH",
            doc="""the lock, made if it is missing. By default it is datasets.lock in the dataset
            that --dataset names, and else in the current directory""",
            constraints=EnsureStr() | EnsureNone(),
        ),
        "glob": Parameter(
            args=("--glob",),
            metavar="GLOB",
            action="append",
            doc="""pin only what fits: sub-01, sub-*/anat, **/*.nwb. Can be given several times""",
        ),
        "bundle": Parameter(
            args=("--bundle",),
            action="store_true",
            doc="""make git bundles beside the lock, from which the datasets can be cloned""",
        ),
        "clone": Parameter(
            args=("--clone",),
            metavar="URL",
            action="append",
            doc="""where others can clone: a store (ria+https://...), or a URL with {alias} or {id}
            in it. Can be given several times""",
        ),
        "remove": Parameter(
            args=("--remove",),
            metavar="NAME",
            action="append",
            doc="""take the pin of a dataset (dandi:000027) out. Can be given several times""",
        ),
        "store": STORE,
    }
    _examples_: ClassVar[list[dict[str, str]]] = [
        {
            "text": "Pin two versions in the dataset one is in, with bundles",
            "code_py": "mirror_pin(['dandi:000027', 'aind:ecephys_1'], dataset='.', bundle=True)",
            "code_cmd": "datalad mirror-pin -d . --bundle dandi:000027 aind:ecephys_1",
        },
    ]

    @staticmethod
    @datasetmethod(name="mirror_pin")  # type: ignore[untyped-decorator]
    @eval_results  # type: ignore[untyped-decorator]
    def __call__(
        version: Any = None,
        dataset: Any = None,
        lock: str | None = None,
        glob: Any = None,
        bundle: bool = False,
        clone: Any = None,
        remove: Any = None,
        store: str | None = None,
    ) -> Iterator[Record]:
        """Yields a result for each version."""
        from neuromirror.lab import Wanted, pin
        from neuromirror.lab.pin import wanted_of_clone

        path, refds = lock_of(lock, dataset), refds_of(dataset)
        globs, clones = listed(glob) or None, listed(clone) or None
        try:
            opened = store_at(store)
            with index_of(opened) as index:
                wanted = []
                for one in listed(version):
                    if (folder := place_of(one, dataset)).is_dir():
                        wanted.append(wanted_of_clone(folder, index, globs, clones, bundle or None))
                    else:
                        wanted.append(Wanted(*version_of(one), globs, clones, bundle or None))
                for outcome in pin(path, wanted, opened, index, remove=listed(remove)):
                    yield record(outcome, "mirror_pin", path, "file", refds)
        except NeuromirrorError as error:
            yield failure("mirror_pin", path, "file", refds, error)
