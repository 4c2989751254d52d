from __future__ import annotations

from batchwright.sandbox.answers import CHAT_PATH
from batchwright.sandbox.options import SandboxOptions
from batchwright.sandbox.upstream import Upstream
from batchwright.sandbox.wire import Request, RequestReader

BODY = b'{"model":"m","messages":[{"role":"user","content":"why?"}]}'


def request() -> Request:
    reader = RequestReader()
    reader.feed(f"POST {CHAT_PATH} HTTP/1.1\r\ncontent-length: {len(BODY)}\r\n\r\n".encode() + BODY)
    found = reader.next()
    assert found is not None
    return found


def test_the_windows_of_a_limit_begin_with_the_start_of_the_sandbox() -> None:
    options = SandboxOptions(rpm=2, limiter="fixed")
    upstream = Upstream(options, start_id=1, record=None, start_s=1_045.0)
    seconds = (0.0, 30.0, 59.0, 61.0)
    planned = [upstream.plan(request(), 1_045.0 + second) for second in seconds]
    assert [call.reply.status for call in planned] == [200, 200, 429, 200]
