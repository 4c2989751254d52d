"""Connections that are no whole request: bounded in number, in bytes and in time."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from batchwright.server.settings import ServerSettings

from .conftest import running_server

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def opened(server: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(server.origin)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def is_cut_off(writer: asyncio.StreamWriter, chunk: bytes, chunks: int) -> bool:
    """Whether the server closes before it has taken that many chunks."""
    try:
        for _ in range(chunks):
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        return True
    return False


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\nX-",
        b"GET / HTTP/1.1\r\nX-A: ",
        b"POST /v1/files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A: ",
        HEALTH + b"GET /healthz HTTP/1.1\r\nX-A: ",
    ],
    ids=["url", "name", "value", "trailer", "second request"],
)
async def test_what_never_ends_is_cut_off(server: Any, begin: bytes) -> None:
    _, writer = await opened(server)
    writer.write(begin)

    assert await is_cut_off(writer, b"a" * 2**16, 640)

    writer.close()


async def test_too_long_a_head_and_no_http_are_told_in_json(server: Any) -> None:
    for sent, status in (
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000, 431),
        (b"\x16\x03\x01\r\n", 400),
    ):
        reader, writer = await opened(server)
        writer.write(sent)
        got, headers, body = await answer(reader)
        assert (got, headers["content-type"]) == (status, "application/json")
        assert headers["x-request-id"].startswith("req_")
        assert sorted(json.loads(body)["error"]) == ["code", "message", "param", "type"]
        writer.close()


async def test_a_head_that_does_not_come_in_time_closes_the_connection(tmp_path: Path) -> None:
    async with running_server(tmp_path, ServerSettings(head_s=0.05)) as server:
        for sent in (b"", b"GET / HTTP/1.1\r\nX: a"):
            reader, writer = await opened(server)
            writer.write(sent)
            assert await reader.read() == b""
            writer.close()
        reader, writer = await opened(server)
        writer.write(HEALTH)
        assert (await answer(reader))[0] == 200
        writer.write(b"GET")
        assert await reader.read() == b""
        writer.close()


async def test_an_answer_that_takes_longer_than_a_head_may_is_waited_for(tmp_path: Path) -> None:
    async with running_server(tmp_path, ServerSettings(head_s=0.02)) as server:
        server.upstream.gate.clear()
        body = b'{"model": "test-model", "messages": []}'
        reader, writer = await opened(server)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (server.token().encode(), len(body), body)
        )
        await server.upstream.called.wait()
        writer.write(b"\r\n")  # as some old clients do behind a body
        late_reader, late = await opened(server)
        assert await late_reader.read() == b""
        server.upstream.gate.set()
        assert (await answer(reader))[0] == 200
        late.close()
        writer.close()


async def test_a_connection_serves_many_requests(server: Any) -> None:
    reader, writer = await opened(server)
    for _ in range(200):
        writer.write(HEALTH)
        assert (await answer(reader))[0] == 200

    writer.close()


@pytest.mark.parametrize(
    "settings",
    [ServerSettings(connections_max=2), ServerSettings(connections_per_address_max=2)],
    ids=["in all", "of an address"],
)
async def test_one_connection_too_many_is_closed_until_another_ends(
    tmp_path: Path, settings: ServerSettings
) -> None:
    async with running_server(tmp_path, settings) as server:
        kept = [await opened(server) for _ in range(2)]
        for reader, writer in kept:
            writer.write(HEALTH)
            assert (await answer(reader))[0] == 200
        reader, writer = await opened(server)
        assert await reader.read() == b""
        writer.close()

        kept[0][1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await kept[0][0].read()
        reader, writer = await opened(server)
        writer.write(HEALTH)
        assert (await answer(reader))[0] == 200
        for _, open_writer in (*kept, (reader, writer)):
            open_writer.close()
