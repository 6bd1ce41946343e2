"""The few words that the document's modules build schemas of: OpenAPI 3.0 as short Python."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

ANY: Schema = {}


def text(description: str = "", **more: Any) -> Schema:
    return _with({"type": "string"}, description, more)


def whole(description: str = "", **more: Any) -> Schema:
    return _with({"type": "integer"}, description, more)


def number(description: str = "", **more: Any) -> Schema:
    return _with({"type": "number"}, description, more)


def flag(description: str = "", **more: Any) -> Schema:
    return _with({"type": "boolean"}, description, more)


def one_of(*values: str, description: str = "") -> Schema:
    return text(description, enum=list(values))


def listed(items: Schema, description: str = "", **more: Any) -> Schema:
    return _with({"type": "array", "items": items}, description, more)


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def or_null(schema: Schema) -> Schema:
    """Let a schema be null: `enum` must name null too, or it forbids what `nullable` allows."""
    more = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, **more, "nullable": True}


def thing(
    always: dict[str, Schema], sometimes: dict[str, Schema] | None = None, description: str = "", **more: Any
) -> Schema:
    """Describe an object; other members than these are allowed, as engines and later versions add their
    own."""
    made: Schema = {"type": "object", "properties": always | (sometimes or {})}
    return _with(made | ({"required": list(always)} if always else {}), description, more)


def _with(schema: Schema, description: str, more: dict[str, Any]) -> Schema:
    return schema | ({"description": description} if description else {}) | more


def json_of(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def said_in(name: str, where: str, schema: Schema, *, required: bool = False) -> dict[str, Any]:
    """Describe a parameter; `where` is header, query or path. Its description is the schema's."""
    schema = dict(schema)
    made = {"name": name, "in": where, "required": required, "schema": schema}
    return made | ({"description": schema.pop("description")} if "description" in schema else {})


def header(schema: Schema, *, always: bool = False) -> dict[str, Any]:
    schema = dict(schema)
    made = {"required": always, "schema": schema}
    return made | ({"description": schema.pop("description")} if "description" in schema else {})


REQUEST_ID = header(
    text("The request's id, as errors, tables and /api/v1/requests name it.", format="uuid"), always=True
)


def answer(description: str, content: dict[str, Any], **headers: dict[str, Any]) -> dict[str, Any]:
    """Describe a response; header names with _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"description": description, "headers": {"x-request-id": REQUEST_ID, **named}, "content": content}
