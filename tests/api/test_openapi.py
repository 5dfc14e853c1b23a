"""The OpenAPI document: valid, whole, and true to the running service."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from api.support import hook
from conftest import REQUESTS
from tocsin.api.errors import CODES
from tocsin.api.table import TABLE
from tocsin.channels.contract import fields_of
from tocsin.channels.registry import CHANNELS


@pytest.fixture
def document(server: Any) -> Any:
    return server.stranger().get("/api/openapi.json").json


def test_it_is_valid(document: Any, server: Any) -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator  # here, since only this worker need load it

    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"].startswith("3.1") and document["servers"] == [{"url": server.base}]


def test_it_is_whole(document: Any) -> None:
    listed = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert listed == {(endpoint.method, endpoint.path) for endpoint in TABLE}
    assert document["components"]["schemas"]["Errors"]["properties"]["errors"]["items"]["properties"]["code"]["enum"] == list(CODES)
    content = document["paths"]["/api/notification-handlers"]["post"]["requestBody"]["content"]
    assert list(content) == ["application/json", "multipart/form-data", "application/x-www-form-urlencoded"]
    settings_fields = [name for channel in CHANNELS.values() for name in fields_of(channel.settings)]
    assert [one["schema"]["$ref"].rpartition("/")[2] for one in content.values()] == ["CreateHandlerRequest", *["CreateHandlerForm"] * 2]
    for name in ("CreateHandlerRequest", "CreateHandlerForm"):
        schema = document["components"]["schemas"][name]
        assert list(schema["properties"]) == ["name", "type", *settings_fields, "is_enabled"]
        assert schema["required"] == ["name", "type"]
    handler = document["components"]["schemas"]["HandlerAnswer"]
    assert list(handler["properties"]) == ["id", "type", "name", "settings", "is_enabled", "last_datetime", "datetime"]


def test_its_examples_are_what_its_schemas_ask_for(document: Any) -> None:
    import jsonschema  # here, since only this worker need load it

    schemas = document["components"]["schemas"]
    wrong: list[str] = []
    seen = 0
    for name, schema in schemas.items():
        for field, property_ in schema.get("properties", {}).items():
            for example in property_.get("examples", ()):
                seen += 1
                found = jsonschema.Draft202012Validator(property_).iter_errors(example)
                wrong += [f"{name}.{field}: {example!r}: {error.message}" for error in found]
        if "example" in schema and name.endswith(("Request", "Form")) and name != "SendBatchRequest":
            own = {one: value for one, value in schema.items() if one != "example"}
            wrong += [f"{name}: {error.message}" for error in jsonschema.Draft202012Validator(own).iter_errors(schema["example"])]
    assert wrong == [] and seen > 20
    assert schemas["CreateHandlerForm"]["properties"]["is_enabled"]["examples"] == ["1"]
    assert schemas["SendForm"]["properties"]["fields"]["examples"] == ['{"host":"db-1"}']


def test_a_generator_finds_json_first_names_and_a_view_without_other_bodies(document: Any, server: Any) -> None:
    """OpenAPI Generator takes the first type of a body for its parameters; openapi-python-client cannot choose between several."""
    bodies = [one["requestBody"]["content"] for path in document["paths"].values() for one in path.values() if "requestBody" in one]
    assert bodies and all(next(iter(one)) == "application/json" for one in bodies)
    names = {one["application/json"]["schema"]["$ref"].rpartition("/")[2] for one in bodies}
    assert {"CreateHandlerRequest", "ChangeHandlerRequest", "SendRequest", "SendBatchRequest", "RetryDeliveriesRequest"} == names
    assert all(tag["description"] for tag in document["tags"])
    narrow = server.stranger().get("/api/openapi.json?bodies=json").json
    contents = [one["requestBody"]["content"] for path in narrow["paths"].values() for one in path.values() if "requestBody" in one]
    assert len(contents) == len(bodies) and all(list(one) == ["application/json"] for one in contents)
    assert not [name for name in narrow["components"]["schemas"] if name.endswith("Form")]
    assert server.stranger().get("/api/openapi.json?bodies=xml").status == 400


def test_it_needs_no_key_and_knows_its_address(serve_with: Any) -> None:
    server = serve_with(TOCSIN_BASE_URL="https://tocsin.example.com")
    answer = server.stranger().get("/api/openapi.json/")
    assert answer.status == 200 and answer.json["servers"] == [{"url": "https://tocsin.example.com"}]


@pytest.fixture(scope="module")
def schema(server: Any) -> Any:
    return schemathesis.openapi.from_url(f"{server.base}/api/openapi.json")


RIGHT, WRONG = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
CASES = [
    *((one, RIGHT) for one in TABLE if one.name != "test_handler_draft"),  # a test send would leave this machine
    *((one, WRONG) for one in TABLE if one.query or one.body or one.id_of),
]


HEAVY = {"send", "send_batch", "preview"}  # schemathesis needs three seconds to make one example of a whole message


def case_of(endpoint: Any, mode: Any) -> Any:
    """Of those that take long, sending is the quick one: the others' bodies are made of the same message."""
    marks = [pytest.mark.long] if endpoint.name in HEAVY - {"send"} else []
    return pytest.param(endpoint, mode, id=f"{endpoint.name}-{mode.value}", marks=marks)


@pytest.mark.parametrize(("endpoint", "mode"), [case_of(*one) for one in CASES])
def test_it_is_true(server: Any, client: Any, schema: Any, endpoint: Any, mode: Any) -> None:
    """What the document promises is what comes; what it forbids is refused; nothing crashes."""
    hook(client)
    checks = schemathesis.checks.CHECKS
    # Rules that no schema tells: which settings a type has, which ids there are. The key is tested elsewhere, with its limit.
    left_out = checks.get_by_names(["positive_data_acceptance", "ignored_auth"])

    most, heavy = REQUESTS[settings.get_current_profile_name()]
    examples = heavy if endpoint.name in HEAVY else most

    @settings(max_examples=examples, database=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck])
    @given(case=schema[endpoint.path][endpoint.method].as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {client.key}"}, excluded_checks=left_out)

    run()
