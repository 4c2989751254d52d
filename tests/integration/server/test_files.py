"""Files: the SDK's calls, forms as other clients send them, hostile forms, downloads."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from batchwright.domain.errors import NoSpace
from batchwright.domain.file import FILE_TTL_S
from batchwright.server.settings import ServerSettings

from .conftest import chat_lines, running_server


def form(*parts: tuple[str, bytes], boundary: str = "XX") -> bytes:
    """A form from (header lines after the boundary, content)."""
    body = b"".join(
        f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n" for head, content in parts
    )
    return body + f"--{boundary}--\r\n".encode()


def field(name: str, value: str) -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"', value.encode()


def file_part(content: bytes, filename: str = "in.jsonl") -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="file"; filename="{filename}"', content


FORM = {"content-type": "multipart/form-data; boundary=XX"}


async def test_a_file_has_every_key_of_the_contract(server: Any) -> None:
    async with server.http() as http:
        made = await http.post(
            "/v1/files", files={"file": ("a.jsonl", chat_lines(1))}, data={"purpose": "batch"}
        )

    file = made.json()
    assert sorted(file) == [
        "bytes",
        "created_at",
        "expires_at",
        "filename",
        "id",
        "object",
        "purpose",
        "status",
        "status_details",
    ]
    assert file["id"].startswith("file-")
    assert file["bytes"] == len(chat_lines(1))
    assert file["expires_at"] == file["created_at"] + FILE_TTL_S
    assert (file["status"], file["status_details"]) == ("processed", None)


async def test_only_files_for_batches_expire_by_default(server: Any) -> None:
    async with server.openai() as client:
        kept = await client.files.create(file=b"anything", purpose="user_data")
        short = await client.files.create(
            file=b"x", purpose="evals", expires_after={"anchor": "created_at", "seconds": 3600}
        )

    assert kept.expires_at is None
    assert short.expires_at == short.created_at + 3600


async def test_the_file_may_come_first_and_expiry_with_dotted_names(server: Any) -> None:
    body = form(
        file_part(b"abc", "x.txt"),
        field("expires_after.anchor", "created_at"),
        field("expires_after.seconds", "7200"),
        field("purpose", "user_data"),
    )
    async with server.http() as http:
        made = (await http.post("/v1/files", content=body, headers=FORM)).json()

    assert made["filename"] == "x.txt"
    assert made["expires_at"] == made["created_at"] + 7200


async def test_a_file_larger_than_any_chunk_comes_back_byte_for_byte(server: Any) -> None:
    content = b"".join(b'{"line": %d}\r\n' % at for at in range(200_000))
    async with server.openai() as client:
        file = await client.files.create(file=("big.jsonl", content), purpose="batch")
        back = await client.files.content(file.id)

    assert file.bytes == len(content)
    assert back.content == content


async def test_what_is_no_jsonl_is_refused_for_batches(server: Any) -> None:
    utf16 = "{}".encode("utf-16")
    async with server.openai() as client:
        for content in (b"", b"\n\n \n", b"not json", b"a,b\n1,2\n", b"[1, 2]", b"{\n", utf16):
            with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl") as refused:
                await client.files.create(file=("a.jsonl", content), purpose="batch")

            assert (refused.value.param, refused.value.code) == (None, None)
            assert refused.value.type == "invalid_request_error"
    assert not server.blobs_on_disk()


async def test_a_bad_first_line_is_left_to_validation(server: Any) -> None:
    async with server.openai() as client:
        file = await client.files.create(file=b'{"a": NaN}\n' + chat_lines(1), purpose="batch")

    assert file.status == "processed"


BAD_FORMS = {
    "no file": (form(field("purpose", "batch")), 400, "file"),
    "no purpose": (form(file_part(b"{}")), 400, "purpose"),
    "unknown purpose": (form(field("purpose", "x"), file_part(b"{}")), 400, "purpose"),
    "two files": (form(field("purpose", "evals"), file_part(b"1"), file_part(b"2")), 400, "file"),
    "eleven parts": (form(*[field(f"f{at}", "") for at in range(11)]), 400, None),
    "long field": (form(field("purpose", "x" * 2000)), 400, "purpose"),
    "long header": (form(file_part(b"{}", "n" * 70_000)), 400, None),
    "many headers": (form(("X: 1\r\n" * 9 + field("a", "")[0], b"")), 400, None),
    "no disposition": (form(("X: 1", b"")), 400, None),
    "no end": (form(field("purpose", "evals"), file_part(b"{}"))[:-8], 400, None),
    "no form at all": (b"hello", 400, None),
    "bad seconds": (
        form(
            field("purpose", "evals"),
            field("expires_after[anchor]", "created_at"),
            field("expires_after[seconds]", "soon"),
            file_part(b"{}"),
        ),
        400,
        "expires_after.seconds",
    ),
    "seconds out of range": (
        form(
            field("purpose", "evals"),
            field("expires_after[anchor]", "created_at"),
            field("expires_after[seconds]", "3599"),
            file_part(b"{}"),
        ),
        400,
        "expires_after.seconds",
    ),
    "wrong anchor": (
        form(
            field("purpose", "evals"),
            field("expires_after[anchor]", "now"),
            field("expires_after[seconds]", "3600"),
            file_part(b"{}"),
        ),
        400,
        "expires_after.anchor",
    ),
}


async def test_a_bad_form_is_a_clear_error_and_leaves_nothing(server: Any) -> None:
    async with server.http() as http:
        for name, (body, status, param) in BAD_FORMS.items():
            refused = await http.post("/v1/files", content=body, headers=FORM)
            assert (refused.status_code, refused.json()["error"]["param"]) == (status, param), name
        files = (await http.get("/v1/files")).json()

    assert files["data"] == []
    assert not server.blobs_on_disk()


async def test_other_bodies_and_encodings_are_refused(server: Any) -> None:
    async with server.http() as http:
        plain = await http.post("/v1/files", json={"purpose": "batch"})
        packed = await http.post(
            "/v1/files", content=b"x", headers={**FORM, "content-encoding": "gzip"}
        )

    assert plain.status_code == packed.status_code == 415
    assert packed.json()["error"]["type"] == "invalid_request_error"
    assert packed.headers["x-request-id"].startswith("req_")


async def test_a_file_name_is_data(server: Any) -> None:
    name = "../../etc/\u202epasswd\r\nX-Evil: 1" + "n" * 300
    async with server.http() as http:
        made = await http.post("/v1/files", files={"file": (name, b"1")}, data={"purpose": "evals"})
        file = made.json()
        content = await http.get(f"/v1/files/{file['id']}/content")

    assert len(file["filename"].encode()) <= 255
    assert "x-evil" not in content.headers
    assert content.headers["content-disposition"].startswith("attachment; filename*=UTF-8''..%2F")
    assert server.blobs_on_disk() == [f"files/{file['id']}"]


async def test_files_over_the_limit_are_refused_while_they_come(tmp_path: Any) -> None:
    settings = ServerSettings(file_bytes_max=1000, other_file_bytes_max=2000)
    async with running_server(tmp_path, settings) as server:

        async def endless() -> Any:
            yield form(file_part(b""))[:-10]
            for _ in range(40):
                yield b"x" * 10_000

        async with server.http() as http:
            announced = await http.post(
                "/v1/files",
                files={"file": ("a", b"x" * 2001)},
                data={"purpose": "evals"},
            )
            of_batch = await http.post(
                "/v1/files", files={"file": ("a", b"{}\n" * 400)}, data={"purpose": "batch"}
            )
            unannounced = await http.post("/v1/files", content=endless(), headers=FORM)

        assert announced.status_code == of_batch.status_code == 413
        assert unannounced.status_code == 413
        assert announced.json()["error"]["code"] is None
        assert not server.blobs_on_disk()


async def test_an_aborted_upload_leaves_nothing(server: Any) -> None:
    host = urlsplit(server.origin)
    body = form(field("purpose", "batch"), file_part(chat_lines(10)))
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token()}\r\n"
        f"Content-Type: {FORM['content-type']}\r\nContent-Length: {len(body) + 10_000}\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection(host.hostname, host.port)
    writer.write(head + body[:-20])
    await writer.drain()
    for _ in range(200):
        if server.blobs_on_disk():
            break
        await asyncio.sleep(0.01)
    assert server.blobs_on_disk()

    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
    )
    writer.transport.abort()

    for _ in range(200):
        if not server.blobs_on_disk():
            break
        await asyncio.sleep(0.01)
    assert not server.blobs_on_disk()
    del reader


async def test_a_full_disk_is_told_with_507(server: Any, monkeypatch: Any) -> None:
    def full() -> None:
        raise NoSpace("full")

    monkeypatch.setattr(server.engine, "check_room", full)
    async with server.http() as http:
        refused = await http.post("/v1/files", content=b"", headers=FORM)

    assert refused.status_code == 507
    assert refused.json()["error"]["code"] == "insufficient_storage"


async def test_an_idempotency_key_makes_one_file_of_two_uploads(server: Any) -> None:
    headers = {"Idempotency-Key": "once"}
    async with server.openai() as client:
        first = await client.files.create(
            file=("a.jsonl", chat_lines(1)), purpose="batch", extra_headers=headers
        )
        second = await client.files.create(
            file=("a.jsonl", chat_lines(1)), purpose="batch", extra_headers=headers
        )
        with pytest.raises(openai.ConflictError) as refused:
            await client.files.create(
                file=("a.jsonl", chat_lines(2)), purpose="batch", extra_headers=headers
            )

    assert first.id == second.id
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert server.blobs_on_disk() == [f"files/{first.id}"]


async def test_the_key_of_a_file_that_is_gone_is_as_new(server: Any, monkeypatch: Any) -> None:
    headers = {"Idempotency-Key": "once"}
    async with server.openai() as client:

        async def upload() -> Any:
            return await client.files.create(
                file=("a.jsonl", chat_lines(1)), purpose="batch", extra_headers=headers
            )

        first = await upload()
        await client.files.delete(first.id)
        second, again = await upload(), await upload()
        now = server.engine.runtime.now()
        monkeypatch.setattr(server.engine.runtime, "now", lambda: now + 31 * 86_400)
        third = await upload()
        listed = [file.id async for file in client.files.list()]

    assert second.id == again.id
    assert len({first.id, second.id, third.id}) == 3
    assert listed == [third.id]


async def test_a_repeated_upload_gives_its_file_though_no_more_may_be_stored(
    tmp_path: Any,
) -> None:
    content = chat_lines(1)
    settings = ServerSettings(stored_bytes_per_tenant=len(content))
    async with running_server(tmp_path, settings) as server, server.openai() as client:
        made = [
            await client.files.create(
                file=("a", content), purpose="batch", extra_headers={"Idempotency-Key": "once"}
            )
            for _ in range(2)
        ]
        with pytest.raises(openai.RateLimitError):
            await client.files.create(file=("a", content), purpose="batch")

    assert made[0].id == made[1].id
    assert server.blobs_on_disk() == [f"files/{made[0].id}"]


async def test_lists_are_paged_by_the_last_item_in_either_order(server: Any) -> None:
    async with server.openai() as client:
        made = [(await client.files.create(file=b"%d" % at, purpose="evals")).id for at in range(5)]
        newest = [file.id async for file in client.files.list(limit=2)]
        oldest = [file.id async for file in client.files.list(limit=2, order="asc")]
        none = await client.files.list(purpose="nothing")
        lost = await client.files.list(after="file-unknown")

    assert oldest == made
    assert newest == made[::-1]
    assert none.data == lost.data == []


async def test_list_parameters_are_clamped_or_named(server: Any) -> None:
    async with server.http() as http:
        empty = (await http.get("/v1/files?limit=0")).json()
        large = await http.get("/v1/files?limit=99999999")
        wrong = await http.get("/v1/files?limit=many")
        order = await http.get("/v1/files?order=up")

    assert empty == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    assert large.status_code == 200
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "limit")
    assert (order.status_code, order.json()["error"]["param"]) == (400, "order")


async def test_a_missing_file_is_404_in_openai_s_words(server: Any) -> None:
    async with server.http() as http:
        for method, path in (
            ("GET", "/v1/files/file-x"),
            ("GET", "/v1/files/file-x/content"),
            ("DELETE", "/v1/files/file-x"),
        ):
            answer = await http.request(method, path)
            assert answer.status_code == 404
            assert answer.json()["error"] == {
                "message": "No such File object: file-x",
                "type": "invalid_request_error",
                "param": "id",
                "code": None,
            }


@pytest.fixture
async def content(server: Any) -> tuple[str, bytes]:
    """The URL of a file made of two extents, and its bytes."""
    async with server.openai() as client:
        upload = await client.uploads.create(
            bytes=30, filename="digits.jsonl", mime_type="text/plain", purpose="user_data"
        )
        halves = [b"0123456789abcde", b"fghijklmnopqrst"]
        parts = [(await client.uploads.parts.create(upload.id, data=half)).id for half in halves]
        done = await client.uploads.complete(upload.id, part_ids=parts)
    assert done.file is not None
    return f"/v1/files/{done.file.id}/content", b"".join(halves)


RANGES = {"0-0": (0, 1), "10-19": (10, 20), "14-15": (14, 16), "25-": (25, 30), "-4": (26, 30)}


async def test_one_range_is_answered_with_206(server: Any, content: tuple[str, bytes]) -> None:
    path, whole = content
    async with server.http() as http:
        for asked, (start, stop) in RANGES.items():
            answer = await http.get(path, headers={"range": f"bytes={asked}"})

            assert answer.status_code == 206
            assert answer.content == whole[start:stop]
            assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/30"
            assert answer.headers["content-length"] == str(stop - start)


async def test_downloads_have_the_headers_that_make_them_safe(
    server: Any, content: tuple[str, bytes]
) -> None:
    path, whole = content
    async with server.http() as http:
        answer = await http.get(path)
        head = await http.head(path)
        unchanged = await http.get(path, headers={"if-none-match": answer.headers["etag"]})
        any_kept = await http.get(path, headers={"if-none-match": "*"})
        behind = await http.get(path, headers={"range": "bytes=30-"})
        many = await http.get(path, headers={"range": "bytes=" + "0-1," * 1000 + "2-3"})
        stale = await http.get(path, headers={"range": "bytes=0-1", "if-range": '"old"'})

    assert answer.content == many.content == stale.content == whole
    assert answer.headers["content-type"] == "application/jsonl"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["accept-ranges"] == "bytes"
    assert any_kept.status_code == 304
    assert head.status_code == 200
    assert head.headers["content-length"] == "30"
    assert head.content == b""
    assert unchanged.status_code == 304
    assert behind.status_code == 416
    assert behind.headers["content-range"] == "bytes */30"


async def test_the_bytes_are_held_until_the_download_has_ended(server: Any) -> None:
    large = b"x" * 2**20 * 24  # more than the sockets between hold
    async with server.openai() as client, server.http() as http:
        file = await client.files.create(file=large, purpose="user_data")
        async with http.stream("GET", f"/v1/files/{file.id}/content") as answer:
            await client.files.delete(file.id)
            assert server.engine.readers == {f"files/{file.id}": 1}
            size_bytes = sum([len(chunk) async for chunk in answer.aiter_bytes()])
        for _ in range(100):
            if not server.engine.readers:
                break
            await asyncio.sleep(0.01)

    assert size_bytes == len(large)
    assert server.engine.readers == {}


async def test_an_empty_file_of_another_purpose_is_a_file(server: Any) -> None:
    async with server.openai() as client:
        file = await client.files.create(file=("empty.txt", b""), purpose="user_data")
        content = await client.files.content(file.id)

    assert (file.bytes, content.content) == (0, b"")


async def test_json_is_what_a_json_route_wants(server: Any) -> None:
    deep = "[" * 100_000
    async with server.http() as http:
        for body in (b"{", b"[1]", deep.encode(), b'{"a": "\xff"}', b'"text"'):
            answer = await http.post("/v1/batches", content=body)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["type"] == "invalid_request_error"
        large = await http.post("/v1/batches", content=json.dumps({"a": "x" * 2**20}))

    assert large.status_code == 413
