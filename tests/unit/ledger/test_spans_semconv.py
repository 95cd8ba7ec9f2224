"""Our names are those of OpenTelemetry's own package, each once, and stages are those of the core."""

import re
from pathlib import Path

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, http_attributes, service_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.semconv.schemas import Schemas

from forebay.ledger import semconv

CORE = Path(__file__).parents[3] / "rust" / "core" / "src"


def texts(module):
    return {value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}


def test_names_of_the_conventions_are_in_the_conventions():
    official = texts(gen_ai_attributes) | texts(gen_ai_metrics) | texts(error_attributes) | texts(server_attributes)
    official |= texts(http_attributes) | texts(service_attributes)
    assert {name for name in texts(semconv) if name.startswith("gen_ai.")} <= official
    assert {semconv.ERROR_TYPE, semconv.SERVER_ADDRESS, semconv.SERVER_PORT, semconv.HTTP_STATUS} <= official
    assert {semconv.SERVICE_NAME, semconv.SERVICE_VERSION, semconv.SERVICE_INSTANCE_ID} <= official
    assert semconv.SCHEMA_URL in {schema.value for schema in Schemas}


def test_operations_are_those_of_the_conventions():
    known = {value.value for value in gen_ai_attributes.GenAiOperationNameValues}
    assert set(semconv.OPERATIONS.values()) <= known


def test_stages_are_those_of_the_core():
    source = (CORE / "record.rs").read_text()
    assert tuple(re.findall(r'Self::\w+ => "([a-z]+)"', source))[: len(semconv.STAGES)] == semconv.STAGES


def test_bounds_grow():
    for name, bounds in vars(semconv).items():
        if name.startswith("BOUNDS_"):
            assert list(bounds) == sorted(set(bounds)), name
