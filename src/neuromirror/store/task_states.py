"""The states of tasks of a store, which each task saves for its next run and for ``status``."""

from __future__ import annotations

from typing import ClassVar, Self

import msgspec

from neuromirror.model import dump_json, parse_json
from neuromirror.model.validation import analysed_type
from neuromirror.store.durable_files import make_folder, write_atomically
from neuromirror.store.store import Store


class TaskState(msgspec.Struct, forbid_unknown_fields=True):
    """The state of a task, in ``<store>/neuromirror/tasks/<task>.json``.

    Its fields have defaults: those are the state if the file is missing or unreadable.

    Attributes
    ----------
    task
        The name of the task.
    """

    task: ClassVar[str]

    @classmethod
    def load(cls, store: Store) -> Self:
        """Return the saved state.

        Parameters
        ----------
        store
            The store.
        """
        path = store.task_state_path(cls.task)
        try:
            found = parse_json(path.read_bytes(), path.name)
            return msgspec.convert(found, analysed_type(cls))
        except (FileNotFoundError, ValueError):
            return cls()

    def save(self, store: Store) -> None:
        """Save the state.

        Parameters
        ----------
        store
            The store.
        """
        path = store.task_state_path(self.task)
        make_folder(path.parent)
        write_atomically(path, dump_json(self) + b"\n", durable=False)
