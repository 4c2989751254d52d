from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from batchwright.client import http
from batchwright.client.api import Client
from batchwright.client.errors import (
    ApiError,
    BadRequest,
    ObjectNotFound,
    RateLimited,
    ServerFailed,
    ServerUnreachable,
    StateConflict,
    Unauthenticated,
)
from fake_openai_batch import FakeOpenAI

AGAIN = {"retry-after-ms": "1"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    monkeypatch.setattr(http, "BACKOFF_FIRST_S", 0.001)
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
async def client(server: FakeOpenAI) -> AsyncIterator[Client]:
    async with Client(server.api_key, server.base_url) as opened:
        yield opened


async def test_a_file_goes_up_and_comes_down_to_the_byte(
    server: FakeOpenAI, client: Client, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 20_000  # several pieces
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(content)
    sent: list[int] = []

    file = await client.upload_file(source, on_bytes=sent.append)
    size = await client.download(file["id"], target)

    assert file["filename"] == "in.jsonl"
    assert server.files[file["id"]] == content == target.read_bytes()
    assert size == sum(sent) == len(content)
    assert "content-length" in server.headers[0]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


async def test_a_range_of_a_file_can_be_uploaded(
    server: FakeOpenAI, client: Client, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"one\ntwo\nthree\n")

    file = await client.upload_file(source, start=4, size_bytes=4, filename="a\r\nb.jsonl")

    assert server.files[file["id"]] == b"two\n"
    assert file["filename"] == "a__b.jsonl"


async def test_a_broken_upload_is_sent_again_whole_under_the_same_key(
    server: FakeOpenAI, client: Client, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"content\n")
    server.faults["POST", "/v1/files"] = [{"close": True}, {"status": 503, "headers": AGAIN}]
    sent: list[int] = []

    file = await client.upload_file(source, on_bytes=sent.append)

    assert server.files[file["id"]] == b"content\n"
    assert sum(sent) == len(b"content\n")
    assert len({headers["idempotency-key"] for headers in server.headers}) == 1
    assert len(server.headers) == 3


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_broken_download_goes_on_where_it_broke(
    server: FakeOpenAI, client: Client, tmp_path: Path, ranges: bool
) -> None:
    content = b"".join(b"line %d\n" % number for number in range(50_000))
    file_id = server.store(content)
    server.ranges = ranges
    server.cut_content_at = [100_000, 200_000, 5]

    size = await client.download(file_id, tmp_path / "out")

    assert size == len(content)
    assert (tmp_path / "out").read_bytes() == content
    asked = [headers.get("range") for headers in server.headers]
    assert asked[0] is None
    assert all(given is not None for given in asked[1:])


async def test_a_download_that_never_gets_on_gives_up(
    server: FakeOpenAI, client: Client, tmp_path: Path
) -> None:
    file_id = server.store(b"x" * 100)
    server.cut_content_at = [0] * 20

    with pytest.raises(ServerUnreachable):
        await client.download(file_id, tmp_path / "out")

    assert not (tmp_path / "out").exists()


async def test_lines_end_at_line_feeds_only(server: FakeOpenAI, client: Client) -> None:
    file_id = server.store("a\u2028b\r\n\n\x85c\nlast".encode())

    lines = [line.decode() async for line in client.iter_lines(file_id)]

    assert lines == ["a\u2028b", "\x85c", "last"]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_a_passing_error_is_tried_again(
    server: FakeOpenAI, client: Client, status: int
) -> None:
    server.faults["GET", "/v1/models"] = [{"status": status, "headers": AGAIN}] * 2

    assert [model["id"] for model in await client.list_models()] == ["a/b"]
    assert server.count("GET", "/v1/models") == 3


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (400, {}, BadRequest),
        (422, {}, BadRequest),
        (404, {}, ObjectNotFound),
        (409, {"x-should-retry": "false"}, StateConflict),
        (429, {"x-should-retry": "false"}, RateLimited),
        (429, {"retry-after": "500"}, RateLimited),
    ],
)
async def test_a_lasting_error_is_raised_at_once_with_its_facts(
    server: FakeOpenAI, client: Client, status: int, headers: dict[str, str], kind: type[Exception]
) -> None:
    more = {"x-request-id": "req-7", **headers}
    server.faults["GET", "/v1/models"] = [{"status": status, "headers": more, "code": "odd"}]

    with pytest.raises(kind, match="a fault") as raised:
        await client.list_models()

    error = raised.value
    assert isinstance(error, ApiError)
    assert (error.status, error.code, error.request_id) == (status, "odd", "req-7")
    assert server.count("GET", "/v1/models") == 1


async def test_x_should_retry_wins_over_the_status(server: FakeOpenAI, client: Client) -> None:
    headers = {"x-should-retry": "true", **AGAIN}
    server.faults["GET", "/v1/models"] = [{"status": 400, "headers": headers}]

    assert await client.list_models()


async def test_tries_end(server: FakeOpenAI, client: Client) -> None:
    server.faults["GET", "/v1/models"] = [{"status": 500, "headers": AGAIN}] * 20

    with pytest.raises(ServerFailed):
        await client.list_models()

    assert server.count("GET", "/v1/models") == 5


async def test_a_wrong_key_is_told_apart(server: FakeOpenAI) -> None:
    async with Client("wrong", server.base_url) as client:
        with pytest.raises(Unauthenticated, match="wrong key"):
            await client.list_models()


async def test_a_server_that_is_not_there_is_said_plainly(
    server: FakeOpenAI, unused_tcp_port: int
) -> None:
    async with Client("k", f"http://127.0.0.1:{unused_tcp_port}/v1") as client:
        with pytest.raises(ServerUnreachable, match="Is the server running"):
            await client.list_models()


async def test_a_page_that_is_not_json_is_said_plainly(server: FakeOpenAI, client: Client) -> None:
    server.faults["GET", "/v1/models"] = [{"status": 200, "text": "<html>"}]

    with pytest.raises(ServerUnreachable, match="/v1"):
        await client.list_models()


async def test_a_silent_server_runs_into_the_timeout(server: FakeOpenAI) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        async with Client("k", url, timeout_s=0.05, retries=0) as client:
            with pytest.raises(ServerUnreachable, match=r"within 0\.05 s"):
                await client.list_models()


async def test_files_and_batches_are_listed_and_removed(
    server: FakeOpenAI, client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"{}\n")
    server.script = lambda batch: None
    file = await client.upload_file(path)
    batch = await client.create_batch(file["id"], metadata={"a": "b"})

    assert (await client.list_files())["data"][0]["id"] == file["id"]
    assert (await client.list_batches())["data"][0]["id"] == batch["id"]
    assert (await client.get_file(file["id"]))["bytes"] == 3
    assert batch["metadata"] == {"a": "b"}
    assert batch["completion_window"] == "24h"
    assert (await client.delete_file(file["id"]))["deleted"] is True


async def test_a_batch_over_a_file_of_old_is_not_asked_for_again_in_doubt(
    server: FakeOpenAI, client: Client
) -> None:
    server.files["file-old"] = b"{}\n"
    server.script = lambda batch: None
    await client.create_batch("file-old")
    server.faults["POST", "/v1/batches"] = [{"close": True, "after": True}]

    with pytest.raises(ServerUnreachable):
        await client.create_batch("file-old")

    assert len(server.batches) == 2


async def test_a_download_leaves_files_of_like_names_alone(
    server: FakeOpenAI, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "out.part").write_text("mine")

    await client.download(server.store(b"content"), tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == b"content"
    assert (tmp_path / "out.part").read_text() == "mine"


async def test_ids_cannot_leave_their_place_in_the_path(server: FakeOpenAI, client: Client) -> None:
    with pytest.raises(ObjectNotFound):
        await client.get_file("../models")

    assert server.count("GET", "/v1/models") == 0
