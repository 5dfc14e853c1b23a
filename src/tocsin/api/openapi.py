"""The OpenAPI 3.1 document, generated from the table, so that it matches the running service."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import Struct, json

from tocsin import __version__
from tocsin.api import answers, bodies, envelope, kinds
from tocsin.api.endpoint import Call, Endpoint, Parameter, Result
from tocsin.api.errors import CODES, JSON_TYPE, NO_STORE, Answer

Object: TypeAlias = dict[str, Any]

MAX_ENCODED = 16  # documents in memory: one for each address under which the service is reached
_encoded: dict[tuple[str, str], bytes] = {}

_REF = "#/components/schemas/"
_ITEMS: tuple[type[Struct], ...] = (
    *(answers.Made, answers.HandlerAnswer, answers.TrialAnswer, answers.PreviewAnswer, answers.StatsAnswer),
    answers.HandlerStateAnswer,
    answers.SecretAnswer,
    *(answers.NotificationAnswer, answers.Cancelled, answers.DeliveryAnswer, answers.DeliveryDetail, answers.Retried),
)
_EVERYWHERE = ("unauthorized", "forbidden", "rate_limited", "internal", "busy")


def serve(call: Call, table: Sequence[Endpoint], groups: Mapping[str, str]) -> Answer:
    shown = call.values["bodies"]
    if (call.base, shown) not in _encoded:
        if len(_encoded) >= MAX_ENCODED:
            _encoded.clear()
        _encoded[call.base, shown] = json.encode(document(table, groups, call.base, shown))
    return Answer(200, _encoded[call.base, shown], (JSON_TYPE, NO_STORE))


def document(table: Sequence[Endpoint], groups: Mapping[str, str], base: str, shown: str = "all") -> Object:
    """The document of a service that is reached under `base`. `shown`: `all` types of bodies, or `json` alone."""
    paths: dict[str, Object] = {}
    for endpoint in table:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, shown)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tocsin",
            "version": __version__,
            "summary": "A notification service that delivers what it accepts.",
            "description": "Every path works with and without a slash at its end. Times are UTC.\n\n" + _codes_text(),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": base}],
        "security": [{"key": []}],
        "tags": [{"name": name, "description": text} for name, text in groups.items()],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key, `tk_...`."}},
            "schemas": {**_schemas(), **_body_schemas(table, shown)},
        },
    }


def _codes_text() -> str:
    lines = [f"- `{name}` ({code.status}): {code.sentence}" for name, code in CODES.items()]
    return "\n".join(["Error codes (a query parameter's fault has status 400 instead of 422):", *lines])


def _schemas() -> Object:
    _, schemas = json.schema_components([*_ITEMS, envelope.Meta, envelope.Links, answers.Health], ref_template=_REF + "{name}")
    error = {
        "type": "object",
        "required": ["status", "code", "title", "detail"],
        "additionalProperties": False,
        "properties": {
            "status": {"type": "string", "pattern": "^[45][0-9]{2}$"},
            "code": {"type": "string", "enum": list(CODES)},
            "title": {"type": "string"},
            "detail": {"type": "string"},
            "source": _object({"parameter": {"type": "string"}}),
        },
    }
    return {**schemas, "Errors": _object({"errors": {"type": "array", "minItems": 1, "items": error}})}


# --------------------------------------------------------------------------------------------------------- operations


def _operation(endpoint: Endpoint, shown: str) -> Object:
    operation: Object = {
        "operationId": endpoint.name,
        "tags": [endpoint.group],
        "summary": endpoint.summary,
        "description": _description(endpoint),
        "responses": _responses(endpoint),
    }
    parameters = _parameters(endpoint)
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body:
        operation["requestBody"] = _request_body(endpoint, shown)
    if endpoint.scopes is None:
        operation["security"] = [{}, {"key": []}] if endpoint.path == "/metrics" else []
    return operation


def _description(endpoint: Endpoint) -> str:
    if not endpoint.scopes:
        return endpoint.description
    return f"{endpoint.description}\n\nNeeds: {', '.join(endpoint.scopes)}."


def _parameters(endpoint: Endpoint) -> list[Object]:
    found: list[Object] = []
    if endpoint.id_of:
        schema = {"type": "integer", "minimum": 1, "maximum": kinds.MAX_ID}
        found.append({"name": "id", "in": "path", "required": True, "description": f"Id of the {endpoint.id_of}.", "schema": schema})
    for parameter in endpoint.query:
        schema = _query_schema(parameter)
        one = {"name": parameter.name, "in": "query", "required": False, "description": parameter.description, "schema": schema}
        found.append(one | ({"allowEmptyValue": True} if parameter.may_be_empty else {}))
    if endpoint.is_idempotent:
        schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"}
        text = "The same key and content give the same answer for 24 hours, and act once."
        found.append({"name": "Idempotency-Key", "in": "header", "required": False, "description": text, "schema": schema})
    return found


def _query_schema(parameter: Parameter) -> Object:
    schema = dict(parameter.kind.query_schema or parameter.kind.schema)
    if parameter.default not in (None, ""):
        schema["default"] = parameter.default
    if not parameter.may_be_empty and schema.get("type") == "string" and "enum" not in schema:
        schema.setdefault("minLength", 1)
    return schema


def _request_body(endpoint: Endpoint, shown: str) -> Object:
    """JSON first: client generators use the first one."""
    is_required = any(parameter.required for parameter in endpoint.body)
    types = sorted(_types(endpoint, shown), key=lambda one: one != bodies.JSON)
    return {"required": is_required, "content": {one: {"schema": {"$ref": _REF + _body_name(endpoint, one)}} for one in types}}


def _types(endpoint: Endpoint, shown: str) -> list[str]:
    return [one for one in endpoint.media_types if shown == "all" or one == bodies.JSON]


_SAME_BODIES = {"preview": "send", "test_handler_draft": "create_handler"}  # endpoints that take another one's body


def _body_name(endpoint: Endpoint, media_type: str) -> str:
    """Such as CreateHandlerRequest, or CreateHandlerForm where all values are texts."""
    words = _SAME_BODIES.get(endpoint.name, endpoint.name).split("_")
    return "".join(word.capitalize() for word in words) + ("Request" if media_type == bodies.JSON else "Form")


def _body_schemas(table: Sequence[Endpoint], shown: str) -> Object:
    """Request bodies by name, so that generated clients have readable types."""
    return {
        _body_name(endpoint, one): _body_schema(endpoint.body, as_json=one == bodies.JSON)
        for endpoint in table
        if endpoint.body
        for one in _types(endpoint, shown)
    }


def _body_schema(fields: Sequence[Parameter], *, as_json: bool) -> Object:
    schema = {
        "type": "object",
        "properties": {one.name: _body_property(one, as_json=as_json) for one in fields},
        "additionalProperties": False,
        "required": [one.name for one in fields if one.required],
    }
    example = {one.name: one.example if as_json else form_value(one.example) for one in fields if one.required and one.example is not None}
    return schema | ({"example": example} if example else {})


def _body_property(parameter: Parameter, *, as_json: bool) -> Object:
    schema: Object = dict(parameter.kind.schema if as_json else parameter.kind.form_schema or parameter.kind.schema)
    if parameter.items:
        schema["items"] = {"$ref": f"{_REF}SendRequest"}  # the only list of objects, which comes as JSON
    if parameter.empty_is_absent:
        schema = {"anyOf": [schema, {"const": ""}]}
    if as_json and not parameter.required:
        schema = {"anyOf": [schema, {"type": "null"}]}
    example = parameter.example if as_json else form_value(parameter.example)
    return {"description": parameter.description, **schema} | ({} if example is None else {"examples": [example]})


def form_value(value: Any) -> Any:
    """As a form says it: 1 for true, and JSON text for an object."""
    if isinstance(value, bool):
        return "1" if value else "0"
    return json.encode(value).decode() if isinstance(value, dict) else value


# ------------------------------------------------------------------------------------------------------------- answers


def _responses(endpoint: Endpoint) -> Object:
    result = endpoint.result
    responses: Object = {str(result.status): {"description": result.sentence, **_content(result)}}
    if endpoint.path == "/readyz":
        responses["503"] = {"description": "It is not ready.", "content": _as_json({"$ref": f"{_REF}Health"})}
    for status in sorted(_error_statuses(endpoint)):
        codes = [f"`{code}`" for code in codes_of(endpoint) if CODES[code].status == status]
        responses[str(status)] = {"description": ", ".join(codes) or "Unusable query.", "content": _as_json({"$ref": f"{_REF}Errors"})}
    return responses


def codes_of(endpoint: Endpoint) -> tuple[str, ...]:
    """Every error code that it may answer."""
    codes = list(endpoint.codes)
    if endpoint.scopes is not None:
        codes += _EVERYWHERE
    if endpoint.path == "/metrics":
        codes.append("unauthorized")
    if endpoint.id_of:
        codes += ["invalid_id", "not_found"]
    if endpoint.method == "POST":
        codes += ["unreadable", "body_too_large", "unsupported_media_type"]
    return tuple(dict.fromkeys(codes))


def _error_statuses(endpoint: Endpoint) -> set[int]:
    return {400, *(CODES[code].status for code in codes_of(endpoint))}


def _content(result: Result) -> Object:
    match result.part:
        case "nothing":
            return {}
        case "text":
            return {"content": {"text/plain": {"schema": {"type": "string"}}}}
        case "document":
            return {"content": _as_json({"type": "object"})}
        case _:
            return {"content": _as_json(_enveloped(result))}


def _enveloped(result: Result) -> Object:
    item = {"$ref": f"{_REF}{result.item.__name__ if result.item else ''}"}
    match result.part:
        case "bare":
            return item
        case "list":
            return _object({"data": {"type": "array", "items": item}})
        case "page":
            meta, links = {"$ref": f"{_REF}Meta"}, {"$ref": f"{_REF}Links"}
            return _object({"data": {"type": "array", "items": item}, "meta": meta, "links": links})
        case _:
            return _object({"data": item})


def _object(properties: Object) -> Object:
    return {"type": "object", "required": list(properties), "additionalProperties": False, "properties": properties}


def _as_json(schema: Object) -> Object:
    return {"application/json": {"schema": schema}}
