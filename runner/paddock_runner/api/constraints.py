"""What an answer must look like, from each dialect's field. Called by `ollama` and `openai`; the engine compiles it."""

from __future__ import annotations

import json
from typing import Any

from paddock_runner.api.errors import ApiError
from paddock_runner.core.generation import Constraint
from paddock_runner.core.json_schema import closed

_FORMAT, _RESPONSE_FORMAT = "format", "response_format"


def from_format(value: Any) -> Constraint | None:
    """Ollama's `format`: "json", a JSON schema, or nothing. Raises ApiError (400)."""
    if value in (None, ""):
        return None
    if value == "json":
        return Constraint("json", "", field=_FORMAT)
    if not isinstance(value, dict):
        shown = json.dumps(value, ensure_ascii=False)[:100]
        text = f'invalid format: {shown}; expected "json" or a valid JSON Schema object'
        raise ApiError(400, text, param=_FORMAT)
    return Constraint("json_schema", _text(value, _FORMAT), field=_FORMAT)


def from_response_format(value: Any) -> Constraint | None:
    """OpenAI's `response_format` of type text, json_object or json_schema. Raises ApiError (400)."""
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return Constraint("json", "", field=_RESPONSE_FORMAT)
    if kind == "json_schema":
        schema = _schema(value.get("json_schema"))
        return Constraint("json_schema", _text(schema, _RESPONSE_FORMAT), field=_RESPONSE_FORMAT)
    raise _wrong("must be an object whose type is text, json_object or json_schema")


def _schema(member: Any) -> dict[str, Any]:
    if not isinstance(member, dict) or not isinstance(member.get("name"), str) or not member["name"]:
        raise _wrong("json_schema must be an object with a name and a schema")
    schema = member.get("schema")
    if not isinstance(schema, dict):
        raise _wrong("json_schema.schema must be a JSON schema object")
    return schema


def _wrong(words: str) -> ApiError:
    return ApiError(400, f"{_RESPONSE_FORMAT}: {words}", param=_RESPONSE_FORMAT, code="invalid_value")


def _text(schema: dict[str, Any], field: str) -> str:
    try:
        return json.dumps(closed(schema), ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise ApiError(400, f"{field}: the schema is nested too deeply", param=field) from None
