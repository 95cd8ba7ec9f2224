# ruff: noqa: S105 - tokens here are words of a model
"""Every OpenTelemetry name that forebay sends, once.

Owns: attribute, metric and span names, units, and the bounds of histograms. Must not know: how they are recorded.
On failure: nothing here can fail.

*Source*: the OpenTelemetry semantic conventions 1.41.1, GenAI part (status "development"). It is the last version of
the core conventions that defines `gen_ai.*`; they have moved to `semantic-conventions-genai` since, whose first draft
(`gen-ai-dev/1.42.0-dev`) still holds each of these names. Later drafts there replace the histogram of token usage by
counters; no release does yet.
"""

from __future__ import annotations

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.1"
SCOPE: Final = "forebay"

# --- gen_ai attributes -----------------------------------------------------------------------------------------------
OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_MODEL: Final = "gen_ai.response.model"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
TOKEN_TYPE: Final = "gen_ai.token.type"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_CREATION_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE_INPUT: Final = "input"
TOKEN_TYPE_OUTPUT: Final = "output"

# --- attributes of the core conventions ------------------------------------------------------------------------------
ERROR_TYPE: Final = "error.type"
HTTP_STATUS: Final = "http.response.status_code"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
SERVICE_INSTANCE_ID: Final = "service.instance.id"
UNKNOWN_PROVIDER: Final = "_OTHER"

# --- our own attributes ----------------------------------------------------------------------------------------------
REQUEST_ID: Final = "forebay.request.id"
TENANT: Final = "forebay.tenant"
USER: Final = "forebay.user"
KEY: Final = "forebay.key"
FEATURE: Final = "forebay.feature"
RUN: Final = "forebay.run"
EVAL: Final = "forebay.eval"
ROUTE: Final = "forebay.route"
POOL: Final = "forebay.pool"
MODEL: Final = "forebay.model"
REASON: Final = "forebay.reason"
OUTCOME: Final = "forebay.outcome"
CACHE: Final = "forebay.cache"
USAGE: Final = "forebay.usage"
COST: Final = "forebay.cost_nanousd"
RESERVED: Final = "forebay.reserved_nanousd"
SAVED_BY_CACHE: Final = "forebay.saved_by_cache_nanousd"
SAVED_BY_ROUTING: Final = "forebay.saved_by_routing_nanousd"
PRICE_REVISION: Final = "forebay.price_revision"
POLICY_REVISION: Final = "forebay.policy_revision"
OWNER: Final = "forebay.owner"
ATTEMPTS: Final = "forebay.attempts"
STAGE_NS: Final = "forebay.stage_ns"
BATCH_ROWS: Final = "forebay.batch_rows"
TENSOR_TOKENS: Final = "forebay.tensor_tokens"
PADDED_TOKENS: Final = "forebay.padded_tokens"
SAVED_BY: Final = "forebay.saved_by"
SAVED_BY_CACHE_VALUE: Final = "cache"
SAVED_BY_ROUTING_VALUE: Final = "routing"

# --- names of spans and events ---------------------------------------------------------------------------------------
SPAN_DECIDE: Final = "forebay.decide"
SPAN_QUEUE: Final = "forebay.queue"
EVENT_FIRST_BYTE: Final = "forebay.first_byte"
EVENT_FIRST_TOKEN: Final = "forebay.first_token"

STAGES: Final = (
    "identify",
    "read",
    "authorise",
    "limit",
    "resolve",
    "key",
    "recall",
    "count",
    "place",
    "reserve",
    "shape",
)
"""Of `LedgerRecord.stage_ns`, in its order."""

OPERATIONS: Final = {
    "chat_completions": "chat",
    "text_completions": "text_completion",
    "embedding": "embeddings",
    "responses": "chat",
    "messages": "chat",
}
"""`LedgerRecord.operation` to `gen_ai.operation.name`. What is absent is no GenAI operation and keeps its own name."""

# --- metrics ---------------------------------------------------------------------------------------------------------
METRIC_TOKEN_USAGE: Final = "gen_ai.client.token.usage"
METRIC_REQUEST_DURATION: Final = "gen_ai.server.request.duration"
METRIC_FIRST_TOKEN: Final = "gen_ai.server.time_to_first_token"
METRIC_PER_TOKEN: Final = "gen_ai.server.time_per_output_token"
METRIC_COST: Final = "forebay.cost"
METRIC_WASTED: Final = "forebay.wasted"
METRIC_SAVED: Final = "forebay.saved"

UNIT_SECONDS: Final = "s"
UNIT_TOKENS: Final = "{token}"
UNIT_NANOUSD: Final = "{nanousd}"

# Bounds of histograms as the conventions advise them. A value that equals a bound is below it.
BOUNDS_TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
BOUNDS_DURATION_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
BOUNDS_FIRST_TOKEN_S: Final = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
)
BOUNDS_PER_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
