"""The names that the rendered configuration and the gateway agree on; a test holds them against the Rust side's.

Owns: headers, metadata keys, the cluster of the gateway. Must not know: how they are used. On failure: cannot fail.
"""

from __future__ import annotations

__all__ = [
    "CAPTURE_HEADER",
    "CREDENTIAL_HEADERS",
    "FAIL_OPEN_HEADER",
    "FILTER_METADATA",
    "GATEWAY_CLUSTER",
    "ID_HEADER",
    "INTERNAL_PREFIX",
    "NAMESPACE",
    "POOL_HEADER",
    "RESPONSE_HEADERS",
    "USAGE_NAMESPACE",
]

# Only decide may say these; a client's copy is removed before any filter.
INTERNAL_PREFIX = "x-forebay-internal-"
POOL_HEADER = "x-forebay-internal-pool"
CAPTURE_HEADER = "x-forebay-internal-capture"
ID_HEADER = "x-forebay-internal-id"

# Headers that may carry a client's forebay key.
CREDENTIAL_HEADERS = ("authorization", "x-api-key", "api-key")

# In the initial metadata of an ext_proc stream: `decide` or `capture`.
FILTER_METADATA = "x-forebay-filter"
# The dynamic metadata that decide leaves with a request.
NAMESPACE = "forebay"
# What the usage filter finds in an answer, and what decide tells it to do (`drop`).
USAGE_NAMESPACE = "forebay.usage"
# The cluster of the gateway's own gRPC server; no pool may have a name that begins so.
GATEWAY_CLUSTER = "forebay"
# Marks an answer to a request that no decision was made for, because its route fails open.
FAIL_OPEN_HEADER = "x-forebay-fail-open"

# Response header to the metadata key that it shows.
RESPONSE_HEADERS = {
    "x-forebay-request-id": "id",
    "x-forebay-model": "model",
    "x-forebay-pool": "pool",
    "x-forebay-cache": "cache",
    "x-forebay-cost-nanousd-reserved": "reserved_nanousd",
    "x-ratelimit-limit-requests": "limit_requests",
    "x-ratelimit-remaining-requests": "remaining_requests",
    "x-ratelimit-reset-requests": "reset_requests",
    "x-ratelimit-limit-tokens": "limit_tokens",
    "x-ratelimit-remaining-tokens": "remaining_tokens",
    "x-ratelimit-reset-tokens": "reset_tokens",
}
