"""What an upload is compared with: a server that streams each body into a synced file.

    python benchmarks/bare_handler.py FOLDER

It prints its base URL.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn

Message = MutableMapping[str, Any]


class Storing:
    """An ASGI application."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        with self._path.open("wb") as file:
            is_more = True
            while is_more:
                message = await receive()
                file.write(message.get("body", b""))
                is_more = message.get("more_body", False)
            file.flush()
            os.fsync(file.fileno())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def main() -> None:
    application = Storing(Path(sys.argv[1]) / "bare")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(application, log_level="error", lifespan="off", loop="uvloop")
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
