from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LedgerRecord(_message.Message):
    __slots__ = ("id", "unix_ns", "tenant", "user", "key", "feature", "run", "eval", "route", "operation", "model_asked", "model", "pool", "provider", "endpoint", "reason", "outcome", "code", "status", "cache", "stream", "usage", "prompt_tokens", "cached_prompt_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "cost_known", "cost_nanousd", "reserved_nanousd", "reserved_tokens", "saved_by_cache_nanousd", "saved_by_routing_nanousd", "price_revision", "stage_ns", "queue_ns", "first_byte_ns", "first_token_ns", "last_byte_ns", "duration_ns", "attempts", "policy", "owner", "charges", "trace", "rows", "batch_rows", "tensor_tokens", "padded_tokens", "service_ns")
    class Usage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NONE: _ClassVar[LedgerRecord.Usage]
        EXACT: _ClassVar[LedgerRecord.Usage]
        ESTIMATED: _ClassVar[LedgerRecord.Usage]
    NONE: LedgerRecord.Usage
    EXACT: LedgerRecord.Usage
    ESTIMATED: LedgerRecord.Usage
    ID_FIELD_NUMBER: _ClassVar[int]
    UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    EVAL_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_ASKED_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASONING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_KNOWN_FIELD_NUMBER: _ClassVar[int]
    COST_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    RESERVED_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    RESERVED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAVED_BY_CACHE_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    SAVED_BY_ROUTING_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    PRICE_REVISION_FIELD_NUMBER: _ClassVar[int]
    STAGE_NS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    FIRST_BYTE_NS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_NS_FIELD_NUMBER: _ClassVar[int]
    LAST_BYTE_NS_FIELD_NUMBER: _ClassVar[int]
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    TENSOR_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PADDED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_NS_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    unix_ns: int
    tenant: str
    user: str
    key: str
    feature: str
    run: str
    eval: str
    route: str
    operation: str
    model_asked: str
    model: str
    pool: str
    provider: str
    endpoint: str
    reason: str
    outcome: str
    code: str
    status: int
    cache: str
    stream: bool
    usage: LedgerRecord.Usage
    prompt_tokens: int
    cached_prompt_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_known: bool
    cost_nanousd: int
    reserved_nanousd: int
    reserved_tokens: int
    saved_by_cache_nanousd: int
    saved_by_routing_nanousd: int
    price_revision: str
    stage_ns: _containers.RepeatedScalarFieldContainer[int]
    queue_ns: int
    first_byte_ns: int
    first_token_ns: int
    last_byte_ns: int
    duration_ns: int
    attempts: int
    policy: str
    owner: str
    charges: _containers.RepeatedCompositeFieldContainer[BudgetCharge]
    trace: Trace
    rows: int
    batch_rows: int
    tensor_tokens: int
    padded_tokens: int
    service_ns: int
    def __init__(self, id: _Optional[bytes] = ..., unix_ns: _Optional[int] = ..., tenant: _Optional[str] = ..., user: _Optional[str] = ..., key: _Optional[str] = ..., feature: _Optional[str] = ..., run: _Optional[str] = ..., eval: _Optional[str] = ..., route: _Optional[str] = ..., operation: _Optional[str] = ..., model_asked: _Optional[str] = ..., model: _Optional[str] = ..., pool: _Optional[str] = ..., provider: _Optional[str] = ..., endpoint: _Optional[str] = ..., reason: _Optional[str] = ..., outcome: _Optional[str] = ..., code: _Optional[str] = ..., status: _Optional[int] = ..., cache: _Optional[str] = ..., stream: _Optional[bool] = ..., usage: _Optional[_Union[LedgerRecord.Usage, str]] = ..., prompt_tokens: _Optional[int] = ..., cached_prompt_tokens: _Optional[int] = ..., cache_write_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., reasoning_tokens: _Optional[int] = ..., cost_known: _Optional[bool] = ..., cost_nanousd: _Optional[int] = ..., reserved_nanousd: _Optional[int] = ..., reserved_tokens: _Optional[int] = ..., saved_by_cache_nanousd: _Optional[int] = ..., saved_by_routing_nanousd: _Optional[int] = ..., price_revision: _Optional[str] = ..., stage_ns: _Optional[_Iterable[int]] = ..., queue_ns: _Optional[int] = ..., first_byte_ns: _Optional[int] = ..., first_token_ns: _Optional[int] = ..., last_byte_ns: _Optional[int] = ..., duration_ns: _Optional[int] = ..., attempts: _Optional[int] = ..., policy: _Optional[str] = ..., owner: _Optional[str] = ..., charges: _Optional[_Iterable[_Union[BudgetCharge, _Mapping[str, object]]]] = ..., trace: _Optional[_Union[Trace, _Mapping[str, object]]] = ..., rows: _Optional[int] = ..., batch_rows: _Optional[int] = ..., tensor_tokens: _Optional[int] = ..., padded_tokens: _Optional[int] = ..., service_ns: _Optional[int] = ...) -> None: ...

class BudgetCharge(_message.Message):
    __slots__ = ("budget", "value", "period_start_s", "amount")
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    PERIOD_START_S_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    budget: str
    value: str
    period_start_s: int
    amount: int
    def __init__(self, budget: _Optional[str] = ..., value: _Optional[str] = ..., period_start_s: _Optional[int] = ..., amount: _Optional[int] = ...) -> None: ...

class Trace(_message.Message):
    __slots__ = ("trace_id", "span_id", "parent_span_id", "sampled")
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    sampled: bool
    def __init__(self, trace_id: _Optional[bytes] = ..., span_id: _Optional[bytes] = ..., parent_span_id: _Optional[bytes] = ..., sampled: _Optional[bool] = ...) -> None: ...
