"""`/v1/models`: what may be named as a model."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from batchwright.domain.errors import NotFound
from batchwright.engine.routing import Route, Router, UnknownModel
from batchwright.server.context import UserContext
from batchwright.server.errors import Forbidden
from batchwright.server.wire import model_wire, reply

router = APIRouter(prefix="/v1/models")


@router.get("")
async def list_models(context: UserContext) -> Response:
    """All models that are known by name; OpenAI's list has no pages."""
    models = context.engine.router.models()
    return reply({"object": "list", "data": [model_wire(*model) for model in models]})


@router.get("/{model:path}")
async def get_model(model: str, context: UserContext) -> Response:
    route = find_route(context.engine.router, model)
    return reply(model_wire(model, route.provider.name))


@router.delete("/{model:path}")
async def delete_model(model: str, context: UserContext) -> Response:
    """Refused: the models here are the providers', there is none that a tenant made."""
    find_route(context.engine.router, model)
    raise Forbidden(f"The model '{model}' belongs to a provider and cannot be deleted here.")


def find_route(router: Router, model: str) -> Route:
    """The route of a model, for a call that somebody waits for. Raises `NotFound`."""
    try:
        return router.find(model)
    except UnknownModel as error:
        raise NotFound(str(error), param="model", code="model_not_found") from error
