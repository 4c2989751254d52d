from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from batchwright.sandbox.answers import answer
from batchwright.sandbox.options import SandboxOptions
from batchwright.sandbox.server import serve
from sandbox_process import SandboxProcess

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess() as process:
        yield process


@pytest.fixture
def client(sandbox: SandboxProcess) -> Iterator[openai.OpenAI]:
    with client_of(sandbox) as made:
        yield made


def client_of(sandbox: SandboxProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=sandbox.base_url, api_key="any", max_retries=0, timeout=10)


def chat_body(model: str = "gpt-4o-mini", text: str = "hi", **more: Any) -> bytes:
    return json.dumps(
        {"model": model, "messages": [{"role": "user", "content": text}], **more}
    ).encode()


def connect(sandbox: SandboxProcess) -> socket.socket:
    address = urlsplit(sandbox.base_url)
    return socket.create_connection((address.hostname, address.port), timeout=10)


def post(sandbox: SandboxProcess, body: bytes, path: str = CHAT) -> tuple[Any, bytes]:
    address = urlsplit(sandbox.base_url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def request_bytes(body: bytes, path: str = CHAT) -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
        path.encode(), len(body), body,
    )  # fmt: skip


def read_answers(sock: socket.socket, count: int) -> list[dict[str, Any]]:
    reader, answers = sock.makefile("rb"), []
    for _ in range(count):
        size = 0
        while (line := reader.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                size = int(line.split(b":")[1])
        answers.append(json.loads(reader.read(size)))
    return answers


# --- the official SDK ----------------------------------------------------------------------


def test_the_sdk_gets_answers_of_every_endpoint(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="gpt-5-mini", messages=[{"role": "user", "content": "hi"}]
    )
    completion = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="hi")
    embedding = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    response = client.responses.create(model="gpt-5-mini", input="hi")
    moderation = client.moderations.create(input="hi")

    assert "sandbox" in (chat.choices[0].message.content or "")
    assert chat.usage is not None
    assert completion.choices[0].text.startswith("[sandbox")
    assert [len(row.embedding) for row in embedding.data] == [1536, 1536]
    assert response.output_text.startswith("[sandbox")
    assert len(moderation.results) == 1


def test_the_sdk_reads_streams_to_the_same_text(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    pieces = client.completions.create(model="m", prompt="hi", stream=True, max_tokens=50)
    events = list(client.responses.create(model="gpt-5-mini", input="hi", stream=True))

    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.startswith("[sandbox")
    assert chunks[-1].usage is not None
    assert "".join(p.choices[0].text for p in pieces).startswith("[sandbox")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    deltas = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert events[-1].response.output_text == deltas


def test_the_sdk_lists_models_and_their_misbehaviours(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]

    assert "gpt-5-mini" in names
    assert "sandbox/hang" in names
    assert client.models.retrieve("gpt-5-mini").id == "gpt-5-mini"


def test_the_sdk_meets_its_own_errors(client: openai.OpenAI) -> None:
    ask = client.chat.completions.create
    hello: Any = [{"role": "user", "content": "hi"}]

    with pytest.raises(openai.BadRequestError) as bad:
        ask(model="m", messages=[])
    with pytest.raises(openai.AuthenticationError):
        ask(model="sandbox/status-401", messages=hello)
    with pytest.raises(openai.RateLimitError) as poor:
        ask(model="sandbox/no-money", messages=hello)
    with pytest.raises(openai.RateLimitError) as slow:
        ask(model="sandbox/retry-after-7", messages=hello)
    with pytest.raises(openai.APIConnectionError):
        ask(model="sandbox/reset", messages=hello)
    with pytest.raises(openai.NotFoundError):
        ask(model="sandbox/no-such-behaviour", messages=hello)

    assert bad.value.param == "messages"
    assert poor.value.code == "insufficient_quota"
    assert slow.value.response.headers["retry-after"] == "7"


# --- HTTP ----------------------------------------------------------------------------------


def test_answers_are_those_of_the_pure_function(sandbox: SandboxProcess) -> None:
    for body in (chat_body(), chat_body(n=2), chat_body(model="gpt-5"), b"{"):
        response, raw = post(sandbox, body)
        assert (response.status, raw) == answer(CHAT, body)


def test_pipelined_requests_are_answered_in_order(sandbox: SandboxProcess) -> None:
    bodies = [chat_body(text=f"number {i}") for i in range(50)]
    bodies[10] = chat_body(model="sandbox/wait-20")
    with connect(sandbox) as sock:
        sock.sendall(b"".join(request_bytes(body) for body in bodies))
        answers = read_answers(sock, len(bodies))

    assert answers == [json.loads(answer(CHAT, body)[1]) for body in bodies]


def test_big_bodies_whole_and_in_chunks_are_read(sandbox: SandboxProcess) -> None:
    body = chat_body(text="x" * 20_000_000)
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(body[i : i + 999_999]), body[i : i + 999_999])
        for i in range(0, len(body), 999_999)
    )
    head = b"POST %b HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" % CHAT.encode()
    with connect(sandbox) as sock:
        sock.sendall(request_bytes(body) + head + chunks + b"0\r\n\r\n")
        first, second = read_answers(sock, 2)

    assert first == second == json.loads(answer(CHAT, body)[1])


async def test_over_tls_it_says_so_and_answers(authority: Path) -> None:
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    announced: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(SandboxOptions(), announce=announced.set_result, tls=own))

    address = urlsplit(await announced)
    reader, writer = await asyncio.open_connection(
        address.hostname,
        address.port,
        ssl=ssl.create_default_context(cafile=str(authority / "cert.pem")),
    )
    writer.write(request_bytes(chat_body()))
    status_line = await reader.readline()
    writer.close()
    os.kill(os.getpid(), signal.SIGTERM)
    await serving

    assert address.scheme == "https"
    assert status_line == b"HTTP/1.1 200 OK\r\n"


def test_what_is_not_http_gets_400_and_the_door(sandbox: SandboxProcess) -> None:
    with connect(sandbox) as sock:
        sock.sendall(b"hello\r\n\r\n")
        data = sock.makefile("rb").read()

    assert data.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", CHAT, 405), ("DELETE", "/v1/models", 405), ("POST", "/v1/else", 404)],
)
def test_wrong_methods_and_paths_get_json(
    sandbox: SandboxProcess, method: str, path: str, status: int
) -> None:
    address = urlsplit(sandbox.base_url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()

    assert response.status == status
    assert json.loads(response.read())["error"]["type"] == "invalid_request_error"
    connection.close()


# --- misbehaviour --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("empty-200", b""),
        ("null-200", b"null"),
        ("html-200", b"<html><body>Bad gateway</body></html>"),
        ("wrong-shape-200", b'{"ok":true}'),
    ],
)
def test_a_bad_200_is_sent_as_named(sandbox: SandboxProcess, name: str, body: bytes) -> None:
    response, raw = post(sandbox, chat_body(model=f"sandbox/{name}"))

    assert (response.status, raw) == (200, body)


def test_awkward_bodies_are_still_json(sandbox: SandboxProcess) -> None:
    for name, mark in (("pretty", b"\r\n  "), ("u2028", "\u2028\u2029\u0085".encode())):
        _, raw = post(sandbox, chat_body(model=f"sandbox/{name}"))
        assert mark in raw
        assert json.loads(raw)["object"] == "chat.completion"


def test_broken_bodies_break_as_named(sandbox: SandboxProcess) -> None:
    with pytest.raises(http.client.IncompleteRead):
        post(sandbox, chat_body(model="sandbox/truncate"))
    with pytest.raises(ConnectionResetError):
        post(sandbox, chat_body(model="sandbox/reset"))
    with pytest.raises(http.client.RemoteDisconnected):
        post(sandbox, chat_body(model="sandbox/close"))
    with pytest.raises(UnicodeDecodeError):
        post(sandbox, chat_body(model="sandbox/invalid-utf8-200"))[1].decode()
    with pytest.raises(json.JSONDecodeError):
        json.loads(post(sandbox, chat_body(model="sandbox/cut-json-200"))[1])


def test_an_error_in_a_200_comes_alone_or_in_mid_stream(sandbox: SandboxProcess) -> None:
    whole = post(sandbox, chat_body(model="sandbox/error-in-200"))[1]
    stream = post(sandbox, chat_body(model="sandbox/error-in-200", stream=True))[1]

    assert json.loads(whole).keys() == {"error"}
    assert [b'"error":' in event for event in stream.split(b"\n\n")[:-1]] == [False, True]


@pytest.mark.parametrize("name", ["huge", "gzip-bomb", "drip", "hang"])
def test_an_endless_answer_keeps_no_one_else_waiting(sandbox: SandboxProcess, name: str) -> None:
    with connect(sandbox) as sock:
        sock.sendall(request_bytes(chat_body(model=f"sandbox/{name}")))
        if name != "hang":
            sock.recv(100)
        assert post(sandbox, chat_body())[0].status == 200


def test_a_redirect_points_to_a_path_that_the_ledger_would_show(sandbox: SandboxProcess) -> None:
    response, _ = post(sandbox, chat_body(model="sandbox/redirect"))

    assert (response.status, response.headers["location"]) == (307, "/redirected")


def test_only_the_first_tries_fail_where_so_named(sandbox: SandboxProcess) -> None:
    flaky = [post(sandbox, chat_body(model="sandbox/flaky-2"))[0].status for _ in range(4)]
    once = [post(sandbox, chat_body(model="sandbox/once-status-503"))[0].status for _ in range(2)]

    assert flaky == [500, 500, 200, 500]
    assert once == [503, 200]


def test_a_header_names_a_behaviour_too(sandbox: SandboxProcess) -> None:
    with connect(sandbox) as sock:
        body = chat_body()
        raw = request_bytes(body).replace(b"host: x", b"x-sandbox: null-200")
        sock.sendall(raw)
        assert read_answers(sock, 1) == [None]


def test_a_held_stream_shows_its_first_event_and_waits_for_the_release(
    sandbox: SandboxProcess,
) -> None:
    with connect(sandbox) as sock:
        sock.sendall(request_bytes(chat_body(model="sandbox/hold", stream=True)))
        received = sock.recv(65536)
        while b"\n\n\r\n" not in received:
            received += sock.recv(65536)
        while sandbox.held() == 0:
            pass
        before = received.count(b"data: ")
        released = sandbox.release()
        while not received.endswith(b"0\r\n\r\n"):
            received += sock.recv(65536)

    assert (before, released) == (1, 1)
    assert received.count(b"data: ") > 3
    assert b"data: [DONE]" in received


# --- settings ------------------------------------------------------------------------------


def test_limits_answer_429_with_the_real_headers_and_body() -> None:
    with SandboxProcess("--rpm", "2", "--limiter", "sliding") as sandbox:
        answers = [post(sandbox, chat_body(text=str(i))) for i in range(3)]
        sandbox.stop()
        rows = sandbox.ledger()

    assert [response.status for response, _ in answers] == [200, 200, 429]
    assert [r.headers["x-ratelimit-remaining-requests"] for r, _ in answers] == ["1", "0", "0"]
    refused, raw = answers[2]
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert json.loads(raw)["error"]["code"] == "rate_limit_exceeded"
    assert [row["status"] for row in rows] == [200, 200, 429]


def test_failures_by_chance_are_the_same_in_every_run() -> None:
    runs = []
    for _ in range(2):
        with SandboxProcess("--fail-rate", "0.4", "--seed", "5") as sandbox:
            outcomes = [outcome(sandbox, chat_body(text=str(i))) for i in range(60)]
            sandbox.stop()
            ledger = [row["status"] for row in sandbox.ledger()]
        runs.append(outcomes)
        assert ledger == [status if isinstance(status, int) else None for status in outcomes]

    assert runs[0] == runs[1]
    assert 10 < sum(got != 200 for got in runs[0]) < 40


def outcome(sandbox: SandboxProcess, body: bytes) -> int | str:
    try:
        return int(post(sandbox, body)[0].status)
    except (ConnectionResetError, http.client.IncompleteRead) as error:
        return type(error).__name__


def test_the_ledger_has_a_line_for_each_request_that_arrived() -> None:
    bodies = [chat_body(text=f"t{i}") for i in range(40)]
    with SandboxProcess("--latency", "5-15ms") as sandbox:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda body: post(sandbox, body), bodies))
        assert sandbox.stop() == 0
        rows = sandbox.ledger()

        assert sandbox.calls_by_body() == {hashlib.sha256(b).hexdigest(): 1 for b in bodies}
    assert {row["x_request_id"] for row in rows} == {
        response.headers["x-request-id"] for response, _ in answers
    }
    assert {(row["path"], row["status"]) for row in rows} == {(CHAT, 200)}


def test_a_request_whose_client_goes_away_is_in_the_ledger() -> None:
    with SandboxProcess("--latency", "60s") as sandbox:
        with connect(sandbox) as sock:
            sock.sendall(request_bytes(chat_body()))
            while not sandbox.ledger():
                pass
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert sandbox.stop() == 0
        assert len(sandbox.ledger()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_at_a_signal_even_with_calls_under_way(number: signal.Signals) -> None:
    with SandboxProcess() as sandbox, connect(sandbox) as sock:
        sock.sendall(request_bytes(chat_body(model="sandbox/hold")))
        while not sandbox.held():
            pass
        assert sandbox.stop(number) == 0


def test_a_wrong_setting_is_one_line_and_exit_2() -> None:
    with pytest.raises(RuntimeError, match=r"exit code 2.*limiter: expected one of bucket"):
        SandboxProcess("--limiter", "leaky").start()
