"""`batchwright serve`: the HTTP API and the engine in one process, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from batchwright.cli.connection import reachable
from batchwright.cli.exits import Exit
from batchwright.cli.options import ConfigFile, Json
from batchwright.cli.terminal import note, say, say_json
from batchwright.config import LOOPBACK, Config, load_config
from batchwright.data_directory import rehearsal_of
from batchwright.domain.errors import BatchwrightError, ConfigError, StorageError

if TYPE_CHECKING:
    import uvicorn

    from batchwright.server.settings import ServerSettings
    from batchwright.wiring import Node

KEEP_ALIVE_S = 75


def serve(
    *,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; else server.host (127.0.0.1).")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on, 0 takes a free one; else server.port (8000)."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of everything that is kept; else data_dir (./batchwright-data).",
        ),
    ] = None,
    config: ConfigFile = None,
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse", help="Answer every model from a sandbox; nothing is paid."),
    ] = False,
    as_json: Json = False,
) -> int:
    """Serve the OpenAI-compatible API from this machine.

    It says `ready` and the base URL when it takes requests. SIGTERM or Ctrl-C stops it: what is in
    flight may come back, everything else is resumed at the next start. A second Ctrl-C leaves
    at once: what was in flight is sent again, and may be paid for twice.
    """
    flags = {"server.host": host, "server.port": port, "data_dir": data_dir}
    settings = load_config(config, flags=flags, with_providers=not rehearse)
    if rehearse:
        settings = replace(settings, data_dir=rehearsal_of(settings.data_dir))
    _check_exposure(settings)
    _check_providers(settings)
    with _listen(settings) as listening:
        os.umask(0o077)
        return _run(_Serving(settings, listening, rehearse=rehearse, as_json=as_json))


def _check_exposure(config: Config) -> None:
    server = config.server
    if not (server.is_loopback or server.tls_cert_file or server.behind_proxy):
        raise ConfigError(
            f"server.host: expected an address of this machine alone such as 127.0.0.1, got "
            f"{server.host!r}; set server.tls_cert_file and server.tls_key_file, or "
            "server.behind_proxy = true where something else encrypts"
        )


def _check_providers(config: Config) -> None:
    """No provider is this server itself: its default port is also that of vLLM."""
    server = config.server
    here = {*LOOPBACK, "0.0.0.0", server.host}  # noqa: S104 - read, not bound
    own = _address(server.public_url) if server.public_url is not None else None
    for name, provider in config.providers.items():
        host, port = _address(provider.base_url)
        if (host in here and port == server.port) or (host, port) == own:
            raise ConfigError(
                f"providers.{name}.base_url: expected another address than that of this server, "
                f"got {provider.base_url}: it would send its requests to itself. Choose another "
                "port for the server (--port) or for the provider (base_url)"
            )


def _address(url: str) -> tuple[str | None, int]:
    parts = urlsplit(url)
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _run(serving: _Serving) -> int:
    import uvloop

    from batchwright.cli.logs import configure_logs
    from batchwright.system import prefer_throughput

    configure_logs()
    prefer_throughput()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serving.run())


class _Serving:
    """One server from its start to its end."""

    def __init__(
        self, config: Config, listening: socket.socket, *, rehearse: bool, as_json: bool
    ) -> None:
        self._config = config
        self._listening = listening
        self._rehearse = rehearse
        self._as_json = as_json
        self._stop = asyncio.Event()

    async def run(self) -> int:
        from batchwright.wiring import ensure_admin_key, open_node

        with self._signals():
            async with open_node(self._config, rehearse=self._rehearse) as node:
                _address_path(node.config.data_dir).unlink(
                    missing_ok=True
                )  # of one that was killed
                admin_key = await ensure_admin_key(node)
                server = self._server(node)
                try:
                    if await self._start_engine(node):
                        await self._serve(node, server, admin_key)
                finally:
                    await node.engine.stop()
                return self._outcome(node)

    async def _start_engine(self, node: Node) -> bool:
        """Recover what was running; False if a signal came first."""
        starting = asyncio.create_task(node.engine.start())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if starting.done():
            starting.result()
            return True
        starting.cancel()
        await asyncio.wait([starting])
        return False

    async def _serve(self, node: Node, server: uvicorn.Server, admin_key: str | None) -> None:
        base_url = _base_url(self._config, self._listening)
        serving = asyncio.create_task(server.serve(sockets=[self._listening]))
        stopping = asyncio.create_task(self._stop.wait())
        failing = asyncio.create_task(node.engine.failed.wait())
        try:
            await _started(server, serving)
            with _announced(node.config.data_dir, base_url):
                self._say_ready(base_url, admin_key)
                await asyncio.wait(
                    [serving, stopping, failing], return_when=asyncio.FIRST_COMPLETED
                )
                if not node.engine.failed.is_set():
                    note("stopping; Ctrl-C leaves at once")
                server.should_exit = True
                # Side by side: open downloads and calls in flight have the same grace.
                await asyncio.gather(serving, node.engine.stop())
        finally:
            for task in (stopping, failing):
                task.cancel()

    def _server(self, node: Node) -> uvicorn.Server:
        import uvicorn

        from batchwright.server.app import create_app
        from batchwright.server.guarded import guarded_protocol

        served = server_settings(self._config, rehearse=self._rehearse)
        app = create_app(
            engine=node.engine,
            tenants=node.store,
            store=node.store,
            pepper=node.pepper,
            settings=served,
        )
        settings = uvicorn.Config(
            app,
            http=guarded_protocol(served, node.engine.runtime.token),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(self._config.limits.grace_s)),
            ssl_certfile=self._config.server.tls_cert_file,
            ssl_keyfile=self._config.server.tls_key_file,
        )
        return _quiet_server(settings)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGINT and self._stop.is_set():
            os._exit(Exit.STOPPED)  # all that was acknowledged is on the disk already
        self._stop.set()

    def _outcome(self, node: Node) -> int:
        failure = node.engine.failure
        if failure is None:
            return Exit.OK
        if isinstance(failure, BatchwrightError):
            raise failure
        raise StorageError(f"the engine failed: {type(failure).__name__}: {failure}")

    def _say_ready(self, base_url: str, admin_key: str | None) -> None:
        data_dir = self._config.data_dir.absolute()
        if self._as_json:
            ready = {"event": "ready", "base_url": base_url, "data_dir": str(data_dir)}
            say_json({**ready, "pid": os.getpid(), "admin_key": admin_key})
            return
        say(f"data directory  {data_dir}")
        say(f"base URL        {base_url}")
        if admin_key is not None:
            say(f"admin key       {admin_key}")
            say(f"                shown once; kept in {data_dir / 'admin.key'}")
            say()
            say("    from openai import OpenAI")
            say(f'    client = OpenAI(base_url="{base_url}", api_key="{admin_key}")')
            say()
        if self._rehearse:
            say("rehearsal       every model is answered by a sandbox; nothing is sent or paid")
        say(f"ready {base_url}")


def server_settings(config: Config, *, rehearse: bool = False) -> ServerSettings:
    """What the HTTP API is told of the configuration."""
    from batchwright.server.settings import CONNECTIONS_PER_ADDRESS_MAX, ServerSettings

    limits = config.limits
    # Behind a proxy, and on this machine alone, one address stands for many clients.
    is_shared = config.server.behind_proxy or config.server.is_loopback
    return ServerSettings(
        file_bytes_max=limits.file_mb * 2**20,
        call_body_bytes_max=limits.line_mb * 2**20,
        extra_endpoints=limits.extra_endpoints,
        requests_per_s_per_tenant=limits.requests_per_s,
        stored_bytes_per_tenant=_bytes_of(limits.stored_gb, 2**30),
        live_calls_per_tenant=limits.live_calls,
        live_bytes_per_tenant=_bytes_of(limits.live_mb, 2**20),
        public_url=config.server.public_url,
        rehearse=rehearse,
        address_is_client=not config.server.behind_proxy,
        connections_per_address_max=None if is_shared else CONNECTIONS_PER_ADDRESS_MAX,
    )


def _bytes_of(number: int | None, unit_bytes: int) -> int | None:
    return None if number is None else number * unit_bytes


def _quiet_server(settings: uvicorn.Config) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        """Leaves the signals to us: uvicorn would raise them again when it has ended."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server(settings)


async def _started(server: uvicorn.Server, serving: asyncio.Task[Any]) -> None:
    """Until it takes requests; raises what kept it from that."""
    while not server.started:
        if serving.done():
            serving.result()
            raise StorageError("the HTTP server ended before it was ready")
        await asyncio.sleep(0.005)


def _listen(config: Config) -> socket.socket:
    """A bound socket, so that a port in use is told before anything is started."""
    host, port = config.server.host, config.server.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigError(
            f"server.host: expected an address of this machine, got {host!r} ({error.strerror})"
        ) from error
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"server.port: cannot listen on {host} port {port}: {error.strerror}",
            param="server.port",
        ) from error
    return listening


def _base_url(config: Config, listening: socket.socket) -> str:
    """The URL for clients, with the real port."""
    if config.server.public_url is not None:
        return config.server.public_url
    scheme = "https" if config.server.tls_cert_file else "http"
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{reachable(host)}:{port}/v1"


@contextmanager
def _announced(data_dir: Path, base_url: str) -> Iterator[None]:
    """While it runs, the client commands on this machine find its address in its folder."""
    from batchwright.data_directory import write_private

    path = _address_path(data_dir)
    write_private(path, base_url.encode() + b"\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _address_path(data_dir: Path) -> Path:
    from batchwright.client.settings import BASE_URL_NAME

    return data_dir.absolute() / BASE_URL_NAME
