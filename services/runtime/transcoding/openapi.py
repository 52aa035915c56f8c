"""The OpenAPI 3.1 document of the routes, made of nothing but descriptors and the comments of the protos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from google.protobuf.descriptor import Descriptor

from services.runtime.transcoding.guard import DEADLINE, LONGEST_SECONDS
from services.runtime.transcoding.routes import Route
from services.runtime.transcoding.schemas import Schemas, comment

_DEPTH: Final = 3
"""Parameters of the readable form reach so deep into nested messages."""
_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "description": "An error in the form of google.rpc.Status, with the HTTP status as code.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "status", "message", "details"],
            "properties": {
                "code": {"type": "integer", "description": "The HTTP status."},
                "status": {"type": "string", "description": "The canonical code, for example INVALID_ARGUMENT."},
                "message": {"type": "string", "description": "One sentence that names the field and the limit."},
                "details": {
                    "type": "array",
                    "items": {"type": "object", "required": ["@type"], "properties": {"@type": {"type": "string"}}},
                },
            },
        }
    },
}


def document(routes: Sequence[Route], *, title: str) -> dict[str, Any]:
    """Gives the document.

    Args:
        routes: of all methods.
        title: the server's name.
    """
    schemas = Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.post, {})["post"] = _post(route, schemas)
        if route.get is not None:
            paths.setdefault(route.get, {})["get"] = _get(route, schemas)
    services = {route.bound.service.name: comment(route.bound.service) for route in routes}
    versions = sorted({route.post.split("/")[1] for route in routes})
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": ", ".join(versions)},
        "tags": [{"name": name, "description": text} for name, text in services.items()],
        "security": [{}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": {**dict(sorted(schemas.components.items())), "Error": _ERROR},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "parameters": {
                "timeout": {
                    "name": DEADLINE,
                    "in": "header",
                    "description": "How long the caller waits, in milliseconds.",
                    "schema": {"type": "integer", "minimum": 1, "default": int(LONGEST_SECONDS * 1000)},
                }
            },
        },
    }


def _post(route: Route, schemas: Schemas) -> dict[str, Any]:
    content = {"application/json": {"schema": schemas.reference(route.method.input_type)}}
    return {**_operation(route, schemas, ""), "requestBody": {"content": content}}


def _get(route: Route, schemas: Schemas) -> dict[str, Any]:
    operation = _operation(route, schemas, "_get")
    operation["parameters"] += list(_parameters(route.method.input_type, schemas, ""))
    return operation


def _operation(route: Route, schemas: Schemas, suffix: str) -> dict[str, Any]:
    method = route.method
    text = comment(method)
    return {
        "operationId": f"{route.bound.service.name}_{method.name}{suffix}",
        "tags": [route.bound.service.name],
        "summary": text.partition(". ")[0].rstrip("."),
        "description": text,
        "parameters": [{"$ref": "#/components/parameters/timeout"}],
        "responses": {
            "200": _answer(route, schemas),
            "default": {
                "description": "An error.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }


def _answer(route: Route, schemas: Schemas) -> dict[str, Any]:
    reply = schemas.reference(route.method.output_type)
    text = comment(route.method.output_type)
    if not route.method.server_streaming:
        return {"description": text, "content": {"application/json": {"schema": reply}}}
    line = {
        "oneOf": [
            {"type": "object", "required": ["result"], "properties": {"result": reply}},
            {"$ref": "#/components/schemas/Error"},
        ]
    }
    forms = ("application/x-ndjson", "text/event-stream")
    return {"description": f"A stream. {text}", "content": {form: {"schema": line} for form in forms}}


def _parameters(descriptor: Descriptor, schemas: Schemas, prefix: str) -> Iterator[dict[str, Any]]:
    for field in descriptor.fields:
        name = f"{prefix}{field.name}"
        if field.message_type is None:
            schema = schemas.field(field)
            text = schema.pop("description", "")
            yield {"name": name, "in": "query", "description": text, "schema": schema}
        elif not field.is_repeated and name.count(".") + 1 < _DEPTH:
            yield from _parameters(field.message_type, schemas, f"{name}.")
