"""`/v1/batchwright/keys`: an admin makes, lists and revokes keys, of any tenant."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from batchwright.domain.errors import Conflict, UsageError
from batchwright.domain.key import DEFAULT_TENANT, ROLES, Key, digest_of, lookup_id, make_token
from batchwright.server.context import AdminContext
from batchwright.server.fields import text, wrong_value
from batchwright.server.wire import key_wire, reply

NAME_LENGTH_MAX = 100
TOKEN_RANDOM_BYTES = 40

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

router = APIRouter(prefix="/v1/batchwright/keys")


@router.post("")
async def create_key(context: AdminContext) -> Response:
    """Make a key. Its text, under `key`, is in this answer and nowhere else ever."""
    body = await context.read_object()
    token = make_token(context.engine.runtime.token(TOKEN_RANDOM_BYTES))
    made = Key(
        id=lookup_id(token),
        tenant=_tenant(body.get("tenant", DEFAULT_TENANT)),
        role=_role(body.get("role", "user")),
        name=text(body.get("name", ""), "name")[:NAME_LENGTH_MAX],
        digest=digest_of(context.services.pepper, token),
        created_at=context.engine.runtime.now(),
    )
    await context.tenants.create_key(context.tenant, made)
    return reply({**key_wire(made), "key": token}, headers={"cache-control": "no-store"})


@router.get("")
async def list_keys(context: AdminContext) -> Response:
    """All keys of all tenants, oldest first, revoked ones too."""
    keys = await context.tenants.list_keys(context.tenant)
    return reply({"object": "list", "data": [key_wire(key) for key in keys], "has_more": False})


@router.delete("/{key_id}")
async def revoke_key(key_id: str, context: AdminContext) -> Response:
    """End a key at once. The one that asks cannot end itself."""
    if key_id == context.caller.key_id:
        raise Conflict("This is the key that you are using; revoke it with another admin key.")
    now = context.engine.runtime.now()
    revoked = await context.tenants.revoke_key(context.tenant, key_id, now)
    context.services.authenticator.forget()
    return reply(key_wire(revoked))


def _tenant(given: Any) -> str:
    tenant = text(given, "tenant")
    if not _TENANT.fullmatch(tenant):
        raise UsageError(
            "Invalid 'tenant': expected 1 to 64 letters, digits, '.', '_' or '-', beginning with "
            "a letter or digit.",
            param="tenant",
            code="invalid_value",
        )
    return tenant


def _role(given: Any) -> str:
    role = text(given, "role")
    if role not in ROLES:
        raise wrong_value("role", role, ", ".join(f"'{name}'" for name in ROLES))
    return role
