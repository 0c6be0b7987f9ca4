"""An SSH server on loopback that runs commands, with a key of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncssh


@dataclass(frozen=True)
class SshServer:
    """A running server: its port, and the command that connects to it."""

    port: int
    command: str


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Serve on a free port; ``command`` is a value for GIT_SSH_COMMAND."""
    import asyncssh

    folder.mkdir()
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(folder / "key"))
    (folder / "key").chmod(0o600)
    key.write_public_key(str(folder / "authorized"))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        child = await asyncio.create_subprocess_shell(
            process.command or "exit 1",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await process.redirect(child.stdin, child.stdout, child.stderr)
        code = await child.wait()
        await process.stdout.drain()
        process.exit(code)
        await process.wait_closed()

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            authorized_client_keys=str(folder / "authorized"),
            process_factory=run,
            encoding=None,
        )

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result(10)
    try:
        options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes"
        command = f"ssh -F /dev/null -i {folder / 'key'} {options}"
        yield SshServer(server.get_port(), command)
    finally:

        async def stop() -> None:
            server.close()
            await server.wait_closed()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
