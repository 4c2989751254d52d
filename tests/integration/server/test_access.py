"""Who may do what: a matrix over the route table; a route without a row fails."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from batchwright.server.settings import ServerSettings

from .conftest import MODEL, chat_line, chat_lines, ended, running_server


class Access(NamedTuple):
    """What the owner, another tenant and a user who is no admin get; None needs no key."""

    owner: int
    stranger: int | None
    needs_admin: bool = False
    body: dict[str, Any] | None = None


PUBLIC = Access(200, None)
CHAT = {"model": MODEL, "messages": []}

MATRIX = {
    "POST /v1/chat/completions": Access(200, 200, body=CHAT),
    "POST /v1/completions": Access(200, 200, body=CHAT),
    "POST /v1/embeddings": Access(200, 200, body=CHAT),
    "POST /v1/moderations": Access(200, 200, body=CHAT),
    "POST /v1/responses": Access(200, 200, body=CHAT),
    "POST /v1/batches": Access(400, 400, body={}),
    "GET /v1/batches": Access(200, 200),
    "GET /v1/batches/{batch_id}": Access(200, 404),
    "GET /v1/batches/{batch_id}/results": Access(200, 404),
    "POST /v1/batches/{batch_id}/cancel": Access(409, 404),
    "POST /v1/batches/{batch_id}/pause": Access(409, 404),
    "POST /v1/batches/{batch_id}/resume": Access(409, 404),
    "POST /v1/batches/{batch_id}/priority": Access(409, 404, body={"priority": "low"}),
    "POST /v1/batches/{batch_id}/retry": Access(400, 404),
    "POST /v1/files": Access(415, 415),
    "GET /v1/files": Access(200, 200),
    "GET /v1/files/{file_id}": Access(200, 404),
    "GET /v1/files/{file_id}/content": Access(200, 404),
    "HEAD /v1/files/{file_id}/content": Access(200, 404),
    "POST /v1/uploads": Access(400, 400, body={}),
    "POST /v1/uploads/{upload_id}/parts": Access(415, 404),
    "POST /v1/uploads/{upload_id}/complete": Access(400, 404, body={"part_ids": []}),
    "POST /v1/uploads/{upload_id}/cancel": Access(200, 404),
    "GET /v1/models": Access(200, 200),
    "GET /v1/models/{model:path}": Access(200, 200),
    "DELETE /v1/models/{model:path}": Access(403, 403),
    "POST /v1/batchwright/keys": Access(400, 403, needs_admin=True, body={"role": "x"}),
    "GET /v1/batchwright/keys": Access(200, 403, needs_admin=True),
    "DELETE /v1/batchwright/keys/{key_id}": Access(404, 403, needs_admin=True),
    "GET /healthz": PUBLIC,
    "GET /readyz": PUBLIC,
    "GET /metrics": PUBLIC,
    "GET /": PUBLIC,
    "HEAD /healthz": PUBLIC,
    "HEAD /readyz": PUBLIC,
    "HEAD /": PUBLIC,
    "DELETE /v1/files/{file_id}": Access(200, 404),
}
"""In the order in which they are tried: what deletes comes last."""


def routes_of(app: Any) -> list[str]:
    found = []
    for route in flat(app.router.routes):
        methods = set(route.methods)
        if "GET" in methods and type(route).__module__.startswith("starlette"):
            methods.discard("HEAD")
        found += [f"{method} {route.path}" for method in methods]
    return found


def flat(routes: Any) -> Any:
    for route in routes:
        inner = getattr(route, "effective_route_contexts", None)
        yield from inner() if inner else [route]


async def test_the_matrix_has_every_route(server: Any) -> None:
    assert sorted(routes_of(server.app)) == sorted(MATRIX)


async def test_nobody_reaches_what_belongs_to_another(server: Any) -> None:
    async with server.openai() as client:
        file = await client.files.create(file=chat_lines(1), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        await ended(client, batch.id)
        upload = await client.uploads.create(
            bytes=1, filename="a", mime_type="a/b", purpose="user_data"
        )
    ids = {
        "{file_id}": file.id,
        "{batch_id}": batch.id,
        "{upload_id}": upload.id,
        "{model:path}": "org%2Fmodel:v1",
        "{key_id}": "nothing",
    }

    async with (
        server.http(None) as nobody,
        server.http("other") as stranger,
        server.http() as user,
        server.http(role="admin") as admin,
    ):
        for known in (stranger, user, admin):  # or the failures of nobody would lock them out
            await known.get("/v1/models")
        for row, access in MATRIX.items():
            method, path = row.split(" ")
            for placeholder, value in ids.items():
                path = path.replace(placeholder, value)
            options = {} if access.body is None else {"json": access.body}
            anonymous = await nobody.request(method, path, **options)
            expected = (200,) if access.stranger is None else (401, 429)
            assert anonymous.status_code in expected, row
            if access.stranger is not None:
                foreign = await stranger.request(method, path, **options)
                assert foreign.status_code == access.stranger, (row, foreign.text)
            owner = admin if access.needs_admin else user
            own = await owner.request(method, path, **options)
            assert own.status_code == access.owner, (row, own.text)
            for answer in (anonymous, own):
                assert answer.headers["x-request-id"], row


async def test_another_tenant_s_lists_are_empty_and_its_file_fails_a_batch(server: Any) -> None:
    async with server.openai() as client, server.openai("other") as stranger:
        file = await client.files.create(file=chat_line("a").encode(), purpose="batch")
        await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        assert (await stranger.files.list()).data == []
        assert (await stranger.batches.list()).data == []
        batch = await stranger.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        done = await ended(stranger, batch.id)

    assert done.status == "failed"
    assert done.errors.data[0].code == "invalid_request"


async def test_a_key_is_taken_from_either_header_and_never_from_the_url(server: Any) -> None:
    token = server.token()
    async with server.http(None) as http:
        azure = await http.get("/v1/models", headers={"api-key": token})
        url = await http.get(f"/v1/models?api-key={token}")
        basic = await http.get("/v1/models", headers={"authorization": f"Basic {token}"})

    assert azure.status_code == 200
    assert url.status_code == basic.status_code == 401


async def test_wrong_keys_look_all_the_same_and_are_slowed_down(server: Any) -> None:
    good = server.token()
    wrong = ["x", "y", "sk-" + "a" * 48, good[:-1] + "-", good[:20], "ü" * 40, good + good]
    async with server.http(None) as http:
        key = {"authorization": f"Bearer {good}"}
        assert (await http.get("/v1/models", headers=key)).status_code == 200
        bodies = []
        for token in wrong:
            answer = await http.get(
                "/v1/models", headers={"authorization": f"Bearer {token}".encode()}
            )
            assert answer.status_code == 401
            bodies.append(answer.content)
        more = [await http.get("/v1/models") for _ in range(5)]
        held = await http.get("/v1/models", headers=key)

    assert len(set(bodies)) == 1
    assert json_code(answer) == "invalid_api_key"
    assert [answer.status_code for answer in more] == [401, 401, 401, 429, 429]
    assert int(more[-1].headers["retry-after"]) >= 1
    assert more[-1].headers["x-should-retry"] == "false"
    assert held.status_code == 200  # a key that holds is not locked out by its neighbours


def json_code(answer: Any) -> Any:
    return answer.json()["error"]["code"]


async def test_an_admin_makes_and_revokes_keys(server: Any) -> None:
    async with server.http(role="admin") as admin, server.http(None) as http:
        made = (
            await admin.post(
                "/v1/batchwright/keys", json={"tenant": "team-a", "name": "ci", "role": "user"}
            )
        ).json()
        bearer = {"authorization": f"Bearer {made['key']}"}
        before = await http.get("/v1/files", headers=bearer)
        listed = (await admin.get("/v1/batchwright/keys")).json()
        revoked = await admin.delete(f"/v1/batchwright/keys/{made['id']}")
        after = await http.get("/v1/files", headers=bearer)

    assert made["key"].startswith(f"bw_{made['id']}_")
    assert before.status_code == 200
    [entry] = [key for key in listed["data"] if key["id"] == made["id"]]
    assert (entry["tenant"], entry["name"], entry["role"]) == ("team-a", "ci", "user")
    assert "key" not in entry
    assert made["key"] not in str(listed)
    assert revoked.json()["revoked_at"] is not None
    assert after.status_code == 401


async def test_wrong_key_orders_are_refused(server: Any) -> None:
    async with server.http(role="admin") as admin:
        for body, param in (
            ({"role": "root"}, "role"),
            ({"tenant": "../x"}, "tenant"),
            ({"tenant": ""}, "tenant"),
            ({"name": 1}, "name"),
        ):
            answer = await admin.post("/v1/batchwright/keys", json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        own = server.token(role="admin").split("_")[1]
        itself = await admin.delete(f"/v1/batchwright/keys/{own}")

    assert itself.status_code == 409


async def test_a_tenant_has_its_rate(tmp_path: Any) -> None:
    settings = ServerSettings(requests_per_s_per_tenant=0.2)  # two at once, then one in 5 s
    async with (
        running_server(tmp_path, settings) as server,
        server.http() as http,
        server.http("other") as other,
    ):
        statuses = [(await http.get("/v1/models")).status_code for _ in range(3)]
        refused = await http.get("/v1/models")
        neighbour = await other.get("/v1/models")
        call = await http.post("/v1/chat/completions", json=CHAT)

    assert statuses == [200, 200, 429]
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert "x-should-retry" not in refused.headers
    assert neighbour.status_code == 200
    assert call.status_code == 200


@pytest.mark.parametrize("headers", [{"x": "y" * 17_000}, {f"x-{at}": "" for at in range(101)}])
async def test_headers_have_a_limit(server: Any, headers: dict[str, str]) -> None:
    async with server.http() as http:
        answer = await http.get("/v1/models", headers=headers)

    assert answer.status_code == 431
    assert answer.json()["error"]["type"] == "invalid_request_error"
