"""Worker processes of a service that are forked, so that they need not import neuromirror again."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

from support.forked_commands import running_forkserver


class ForkedWorker:
    """A worker process, with the parts of a :class:`subprocess.Popen` that a pool uses."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int,
        pass_fds: Sequence[int],
        start_new_session: bool,
    ) -> None:
        (number,) = pass_fds
        with Connection(os.dup(number)) as pipe:
            self._process = running_forkserver().Process(
                target=_serve, args=(dict(os.environ), pipe)
            )
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a worker", timeout)
        return self._process.exitcode


def _serve(environment: Mapping[str, str], pipe: Connection) -> None:
    from neuromirror.service.worker_pool import serve

    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    serve(pipe.fileno())
