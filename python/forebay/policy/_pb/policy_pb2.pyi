from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    P0: _ClassVar[Priority]
    P1: _ClassVar[Priority]
    P2: _ClassVar[Priority]
PRIORITY_UNSPECIFIED: Priority
P0: Priority
P1: Priority
P2: Priority

class Policy(_message.Message):
    __slots__ = ("name", "gateway", "envoy", "pools", "models", "tiers", "tenants", "keys", "features", "limits", "routes", "cache", "budgets", "ledger", "telemetry")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    ENVOY_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_FIELD_NUMBER: _ClassVar[int]
    name: str
    gateway: Gateway
    envoy: Envoy
    pools: _containers.RepeatedCompositeFieldContainer[Pool]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    tiers: _containers.RepeatedCompositeFieldContainer[Tier]
    tenants: _containers.RepeatedCompositeFieldContainer[Tenant]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    features: _containers.RepeatedCompositeFieldContainer[Feature]
    limits: _containers.RepeatedCompositeFieldContainer[Limit]
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    cache: Cache
    budgets: _containers.RepeatedCompositeFieldContainer[Budget]
    ledger: Ledger
    telemetry: Telemetry
    def __init__(self, name: _Optional[str] = ..., gateway: _Optional[_Union[Gateway, _Mapping[str, object]]] = ..., envoy: _Optional[_Union[Envoy, _Mapping[str, object]]] = ..., pools: _Optional[_Iterable[_Union[Pool, _Mapping[str, object]]]] = ..., models: _Optional[_Iterable[_Union[Model, _Mapping[str, object]]]] = ..., tiers: _Optional[_Iterable[_Union[Tier, _Mapping[str, object]]]] = ..., tenants: _Optional[_Iterable[_Union[Tenant, _Mapping[str, object]]]] = ..., keys: _Optional[_Iterable[_Union[Key, _Mapping[str, object]]]] = ..., features: _Optional[_Iterable[_Union[Feature, _Mapping[str, object]]]] = ..., limits: _Optional[_Iterable[_Union[Limit, _Mapping[str, object]]]] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping[str, object]]]] = ..., cache: _Optional[_Union[Cache, _Mapping[str, object]]] = ..., budgets: _Optional[_Iterable[_Union[Budget, _Mapping[str, object]]]] = ..., ledger: _Optional[_Union[Ledger, _Mapping[str, object]]] = ..., telemetry: _Optional[_Union[Telemetry, _Mapping[str, object]]] = ...) -> None: ...

class Gateway(_message.Message):
    __slots__ = ("ext_proc_address", "admin_address", "batch_address", "workers", "max_body_bytes", "max_json_depth", "message_timeout_ms", "max_message_timeout_ms", "max_stream_duration_ms", "max_reservations", "max_buckets", "max_records", "drain_ms", "admin_token_sha256")
    EXT_PROC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ADMIN_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    MAX_BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_JSON_DEPTH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAM_DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    MAX_RECORDS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_MS_FIELD_NUMBER: _ClassVar[int]
    ADMIN_TOKEN_SHA256_FIELD_NUMBER: _ClassVar[int]
    ext_proc_address: str
    admin_address: str
    batch_address: str
    workers: int
    max_body_bytes: int
    max_json_depth: int
    message_timeout_ms: int
    max_message_timeout_ms: int
    max_stream_duration_ms: int
    max_reservations: int
    max_buckets: int
    max_records: int
    drain_ms: int
    admin_token_sha256: str
    def __init__(self, ext_proc_address: _Optional[str] = ..., admin_address: _Optional[str] = ..., batch_address: _Optional[str] = ..., workers: _Optional[int] = ..., max_body_bytes: _Optional[int] = ..., max_json_depth: _Optional[int] = ..., message_timeout_ms: _Optional[int] = ..., max_message_timeout_ms: _Optional[int] = ..., max_stream_duration_ms: _Optional[int] = ..., max_reservations: _Optional[int] = ..., max_buckets: _Optional[int] = ..., max_records: _Optional[int] = ..., drain_ms: _Optional[int] = ..., admin_token_sha256: _Optional[str] = ...) -> None: ...

class Envoy(_message.Message):
    __slots__ = ("listen_address", "admin_address", "log_flush_ms", "tls")
    LISTEN_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ADMIN_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FLUSH_MS_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    listen_address: str
    admin_address: str
    log_flush_ms: int
    tls: ServerTls
    def __init__(self, listen_address: _Optional[str] = ..., admin_address: _Optional[str] = ..., log_flush_ms: _Optional[int] = ..., tls: _Optional[_Union[ServerTls, _Mapping[str, object]]] = ...) -> None: ...

class ServerTls(_message.Message):
    __slots__ = ("certificate_file", "private_key_file")
    CERTIFICATE_FILE_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_KEY_FILE_FIELD_NUMBER: _ClassVar[int]
    certificate_file: str
    private_key_file: str
    def __init__(self, certificate_file: _Optional[str] = ..., private_key_file: _Optional[str] = ...) -> None: ...

class Pool(_message.Message):
    __slots__ = ("name", "protocol", "endpoints", "tls", "path_prefix", "credential", "max_concurrency", "provider", "health", "queue")
    class Protocol(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PROTOCOL_UNSPECIFIED: _ClassVar[Pool.Protocol]
        OPENAI: _ClassVar[Pool.Protocol]
        KSERVE_GRPC: _ClassVar[Pool.Protocol]
        HTTP: _ClassVar[Pool.Protocol]
        GRPC: _ClassVar[Pool.Protocol]
        ANTHROPIC: _ClassVar[Pool.Protocol]
    PROTOCOL_UNSPECIFIED: Pool.Protocol
    OPENAI: Pool.Protocol
    KSERVE_GRPC: Pool.Protocol
    HTTP: Pool.Protocol
    GRPC: Pool.Protocol
    ANTHROPIC: Pool.Protocol
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    PATH_PREFIX_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    protocol: Pool.Protocol
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    tls: ClientTls
    path_prefix: str
    credential: Credential
    max_concurrency: int
    provider: str
    health: HealthCheck
    queue: TensorQueue
    def __init__(self, name: _Optional[str] = ..., protocol: _Optional[_Union[Pool.Protocol, str]] = ..., endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping[str, object]]]] = ..., tls: _Optional[_Union[ClientTls, _Mapping[str, object]]] = ..., path_prefix: _Optional[str] = ..., credential: _Optional[_Union[Credential, _Mapping[str, object]]] = ..., max_concurrency: _Optional[int] = ..., provider: _Optional[str] = ..., health: _Optional[_Union[HealthCheck, _Mapping[str, object]]] = ..., queue: _Optional[_Union[TensorQueue, _Mapping[str, object]]] = ...) -> None: ...

class TensorQueue(_message.Message):
    __slots__ = ("max_rows", "max_tokens", "max_bytes", "timeout_ms")
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    max_rows: int
    max_tokens: int
    max_bytes: int
    timeout_ms: int
    def __init__(self, max_rows: _Optional[int] = ..., max_tokens: _Optional[int] = ..., max_bytes: _Optional[int] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: str
    def __init__(self, address: _Optional[str] = ...) -> None: ...

class ClientTls(_message.Message):
    __slots__ = ("sni", "ca_file")
    SNI_FIELD_NUMBER: _ClassVar[int]
    CA_FILE_FIELD_NUMBER: _ClassVar[int]
    sni: str
    ca_file: str
    def __init__(self, sni: _Optional[str] = ..., ca_file: _Optional[str] = ...) -> None: ...

class Credential(_message.Message):
    __slots__ = ("header", "prefix", "file", "env")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    header: str
    prefix: str
    file: str
    env: str
    def __init__(self, header: _Optional[str] = ..., prefix: _Optional[str] = ..., file: _Optional[str] = ..., env: _Optional[str] = ...) -> None: ...

class HealthCheck(_message.Message):
    __slots__ = ("path", "interval_ms", "timeout_ms")
    PATH_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    path: str
    interval_ms: int
    timeout_ms: int
    def __init__(self, path: _Optional[str] = ..., interval_ms: _Optional[int] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "aliases", "revision", "tokenizer", "image_tokens", "context_window_tokens", "max_output_tokens", "prices", "capabilities", "tags", "pools", "upstream_name", "price_id", "tensors")
    class Capability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CAPABILITY_UNSPECIFIED: _ClassVar[Model.Capability]
        CHAT: _ClassVar[Model.Capability]
        COMPLETIONS: _ClassVar[Model.Capability]
        EMBEDDINGS: _ClassVar[Model.Capability]
        TOOLS: _ClassVar[Model.Capability]
        VISION: _ClassVar[Model.Capability]
        JSON: _ClassVar[Model.Capability]
        TENSORS: _ClassVar[Model.Capability]
        RESPONSES: _ClassVar[Model.Capability]
        MESSAGES: _ClassVar[Model.Capability]
    CAPABILITY_UNSPECIFIED: Model.Capability
    CHAT: Model.Capability
    COMPLETIONS: Model.Capability
    EMBEDDINGS: Model.Capability
    TOOLS: Model.Capability
    VISION: Model.Capability
    JSON: Model.Capability
    TENSORS: Model.Capability
    RESPONSES: Model.Capability
    MESSAGES: Model.Capability
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    IMAGE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_WINDOW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PRICES_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_NAME_FIELD_NUMBER: _ClassVar[int]
    PRICE_ID_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    name: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    revision: str
    tokenizer: str
    image_tokens: ImageTokens
    context_window_tokens: int
    max_output_tokens: int
    prices: Prices
    capabilities: _containers.RepeatedScalarFieldContainer[Model.Capability]
    tags: _containers.RepeatedScalarFieldContainer[str]
    pools: _containers.RepeatedScalarFieldContainer[str]
    upstream_name: str
    price_id: str
    tensors: Tensors
    def __init__(self, name: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., revision: _Optional[str] = ..., tokenizer: _Optional[str] = ..., image_tokens: _Optional[_Union[ImageTokens, _Mapping[str, object]]] = ..., context_window_tokens: _Optional[int] = ..., max_output_tokens: _Optional[int] = ..., prices: _Optional[_Union[Prices, _Mapping[str, object]]] = ..., capabilities: _Optional[_Iterable[_Union[Model.Capability, str]]] = ..., tags: _Optional[_Iterable[str]] = ..., pools: _Optional[_Iterable[str]] = ..., upstream_name: _Optional[str] = ..., price_id: _Optional[str] = ..., tensors: _Optional[_Union[Tensors, _Mapping[str, object]]] = ...) -> None: ...

class Tensors(_message.Message):
    __slots__ = ("ragged_inputs", "ragged_outputs", "mask_input", "length_classes", "max_length_classes", "max_batch_rows", "instances", "max_padded_tokens", "preferred_rows", "retry", "answers", "embeddings", "generation")
    class Retry(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        RETRY_UNSPECIFIED: _ClassVar[Tensors.Retry]
        ONCE: _ClassVar[Tensors.Retry]
        NEVER: _ClassVar[Tensors.Retry]
    RETRY_UNSPECIFIED: Tensors.Retry
    ONCE: Tensors.Retry
    NEVER: Tensors.Retry
    class Answers(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ANSWERS_UNSPECIFIED: _ClassVar[Tensors.Answers]
        VARY: _ClassVar[Tensors.Answers]
        DETERMINISTIC: _ClassVar[Tensors.Answers]
    ANSWERS_UNSPECIFIED: Tensors.Answers
    VARY: Tensors.Answers
    DETERMINISTIC: Tensors.Answers
    RAGGED_INPUTS_FIELD_NUMBER: _ClassVar[int]
    RAGGED_OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    MASK_INPUT_FIELD_NUMBER: _ClassVar[int]
    LENGTH_CLASSES_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_CLASSES_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    MAX_PADDED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_ROWS_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ragged_inputs: _containers.RepeatedCompositeFieldContainer[RaggedInput]
    ragged_outputs: _containers.RepeatedCompositeFieldContainer[RaggedOutput]
    mask_input: str
    length_classes: _containers.RepeatedScalarFieldContainer[int]
    max_length_classes: int
    max_batch_rows: int
    instances: int
    max_padded_tokens: int
    preferred_rows: _containers.RepeatedScalarFieldContainer[int]
    retry: Tensors.Retry
    answers: Tensors.Answers
    embeddings: EmbeddingTensors
    generation: GenerationTensors
    def __init__(self, ragged_inputs: _Optional[_Iterable[_Union[RaggedInput, _Mapping[str, object]]]] = ..., ragged_outputs: _Optional[_Iterable[_Union[RaggedOutput, _Mapping[str, object]]]] = ..., mask_input: _Optional[str] = ..., length_classes: _Optional[_Iterable[int]] = ..., max_length_classes: _Optional[int] = ..., max_batch_rows: _Optional[int] = ..., instances: _Optional[int] = ..., max_padded_tokens: _Optional[int] = ..., preferred_rows: _Optional[_Iterable[int]] = ..., retry: _Optional[_Union[Tensors.Retry, str]] = ..., answers: _Optional[_Union[Tensors.Answers, str]] = ..., embeddings: _Optional[_Union[EmbeddingTensors, _Mapping[str, object]]] = ..., generation: _Optional[_Union[GenerationTensors, _Mapping[str, object]]] = ...) -> None: ...

class RaggedInput(_message.Message):
    __slots__ = ("name", "dim", "pad_value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    PAD_VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dim: int
    pad_value: float
    def __init__(self, name: _Optional[str] = ..., dim: _Optional[int] = ..., pad_value: _Optional[float] = ...) -> None: ...

class RaggedOutput(_message.Message):
    __slots__ = ("name", "dim")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    name: str
    dim: int
    def __init__(self, name: _Optional[str] = ..., dim: _Optional[int] = ...) -> None: ...

class EmbeddingTensors(_message.Message):
    __slots__ = ("text_input", "tokens", "output")
    TEXT_INPUT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    text_input: str
    tokens: TokenInputs
    output: str
    def __init__(self, text_input: _Optional[str] = ..., tokens: _Optional[_Union[TokenInputs, _Mapping[str, object]]] = ..., output: _Optional[str] = ...) -> None: ...

class TokenInputs(_message.Message):
    __slots__ = ("ids", "mask", "type_ids", "tokenizer_file", "max_tokens")
    IDS_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    TYPE_IDS_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FILE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ids: str
    mask: str
    type_ids: str
    tokenizer_file: str
    max_tokens: int
    def __init__(self, ids: _Optional[str] = ..., mask: _Optional[str] = ..., type_ids: _Optional[str] = ..., tokenizer_file: _Optional[str] = ..., max_tokens: _Optional[int] = ...) -> None: ...

class GenerationTensors(_message.Message):
    __slots__ = ("text_input", "stream_input", "parameters_input", "parameter_inputs", "text_output", "text", "finish_reason_output", "output_tokens_output", "chat_template")
    class Text(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TEXT_UNSPECIFIED: _ClassVar[GenerationTensors.Text]
        DELTA: _ClassVar[GenerationTensors.Text]
        CUMULATIVE: _ClassVar[GenerationTensors.Text]
    TEXT_UNSPECIFIED: GenerationTensors.Text
    DELTA: GenerationTensors.Text
    CUMULATIVE: GenerationTensors.Text
    class ParameterInputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TEXT_INPUT_FIELD_NUMBER: _ClassVar[int]
    STREAM_INPUT_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_INPUT_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_INPUTS_FIELD_NUMBER: _ClassVar[int]
    TEXT_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    text_input: str
    stream_input: str
    parameters_input: str
    parameter_inputs: _containers.ScalarMap[str, str]
    text_output: str
    text: GenerationTensors.Text
    finish_reason_output: str
    output_tokens_output: str
    chat_template: str
    def __init__(self, text_input: _Optional[str] = ..., stream_input: _Optional[str] = ..., parameters_input: _Optional[str] = ..., parameter_inputs: _Optional[_Mapping[str, str]] = ..., text_output: _Optional[str] = ..., text: _Optional[_Union[GenerationTensors.Text, str]] = ..., finish_reason_output: _Optional[str] = ..., output_tokens_output: _Optional[str] = ..., chat_template: _Optional[str] = ...) -> None: ...

class ImageTokens(_message.Message):
    __slots__ = ("tiles", "patches", "flat_tokens")
    TILES_FIELD_NUMBER: _ClassVar[int]
    PATCHES_FIELD_NUMBER: _ClassVar[int]
    FLAT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    tiles: TileRule
    patches: PatchRule
    flat_tokens: int
    def __init__(self, tiles: _Optional[_Union[TileRule, _Mapping[str, object]]] = ..., patches: _Optional[_Union[PatchRule, _Mapping[str, object]]] = ..., flat_tokens: _Optional[int] = ...) -> None: ...

class TileRule(_message.Message):
    __slots__ = ("base_tokens", "tile_tokens")
    BASE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TILE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    base_tokens: int
    tile_tokens: int
    def __init__(self, base_tokens: _Optional[int] = ..., tile_tokens: _Optional[int] = ...) -> None: ...

class PatchRule(_message.Message):
    __slots__ = ("cap", "multiplier_milli")
    CAP_FIELD_NUMBER: _ClassVar[int]
    MULTIPLIER_MILLI_FIELD_NUMBER: _ClassVar[int]
    cap: int
    multiplier_milli: int
    def __init__(self, cap: _Optional[int] = ..., multiplier_milli: _Optional[int] = ...) -> None: ...

class Prices(_message.Message):
    __slots__ = ("prompt_nanousd_per_million_tokens", "output_nanousd_per_million_tokens", "cached_prompt_nanousd_per_million_tokens", "revision", "cache_write_nanousd_per_million_tokens", "request_nanousd", "long_prompt")
    PROMPT_NANOUSD_PER_MILLION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_NANOUSD_PER_MILLION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_PROMPT_NANOUSD_PER_MILLION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_NANOUSD_PER_MILLION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    LONG_PROMPT_FIELD_NUMBER: _ClassVar[int]
    prompt_nanousd_per_million_tokens: int
    output_nanousd_per_million_tokens: int
    cached_prompt_nanousd_per_million_tokens: int
    revision: str
    cache_write_nanousd_per_million_tokens: int
    request_nanousd: int
    long_prompt: _containers.RepeatedCompositeFieldContainer[LongPromptPrices]
    def __init__(self, prompt_nanousd_per_million_tokens: _Optional[int] = ..., output_nanousd_per_million_tokens: _Optional[int] = ..., cached_prompt_nanousd_per_million_tokens: _Optional[int] = ..., revision: _Optional[str] = ..., cache_write_nanousd_per_million_tokens: _Optional[int] = ..., request_nanousd: _Optional[int] = ..., long_prompt: _Optional[_Iterable[_Union[LongPromptPrices, _Mapping[str, object]]]] = ...) -> None: ...

class LongPromptPrices(_message.Message):
    __slots__ = ("above_prompt_tokens", "prompt_nanousd_per_million_tokens", "output_nanousd_per_million_tokens", "cached_prompt_nanousd_per_million_tokens", "cache_write_nanousd_per_million_tokens")
    ABOVE_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_NANOUSD_PER_MILLION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_NANOUSD_PER_MILLION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_PROMPT_NANOUSD_PER_MILLION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_NANOUSD_PER_MILLION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    above_prompt_tokens: int
    prompt_nanousd_per_million_tokens: int
    output_nanousd_per_million_tokens: int
    cached_prompt_nanousd_per_million_tokens: int
    cache_write_nanousd_per_million_tokens: int
    def __init__(self, above_prompt_tokens: _Optional[int] = ..., prompt_nanousd_per_million_tokens: _Optional[int] = ..., output_nanousd_per_million_tokens: _Optional[int] = ..., cached_prompt_nanousd_per_million_tokens: _Optional[int] = ..., cache_write_nanousd_per_million_tokens: _Optional[int] = ...) -> None: ...

class Tier(_message.Message):
    __slots__ = ("name", "priority")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    priority: Priority
    def __init__(self, name: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class Tenant(_message.Message):
    __slots__ = ("name", "tier", "models", "weight")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    name: str
    tier: str
    models: _containers.RepeatedScalarFieldContainer[str]
    weight: int
    def __init__(self, name: _Optional[str] = ..., tier: _Optional[str] = ..., models: _Optional[_Iterable[str]] = ..., weight: _Optional[int] = ...) -> None: ...

class Key(_message.Message):
    __slots__ = ("id", "sha256", "tenant", "user", "tier", "models", "features", "expires_unix_ms", "disabled")
    ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    DISABLED_FIELD_NUMBER: _ClassVar[int]
    id: str
    sha256: str
    tenant: str
    user: str
    tier: str
    models: _containers.RepeatedScalarFieldContainer[str]
    features: _containers.RepeatedScalarFieldContainer[str]
    expires_unix_ms: int
    disabled: bool
    def __init__(self, id: _Optional[str] = ..., sha256: _Optional[str] = ..., tenant: _Optional[str] = ..., user: _Optional[str] = ..., tier: _Optional[str] = ..., models: _Optional[_Iterable[str]] = ..., features: _Optional[_Iterable[str]] = ..., expires_unix_ms: _Optional[int] = ..., disabled: _Optional[bool] = ...) -> None: ...

class Feature(_message.Message):
    __slots__ = ("name", "cache", "max_output_tokens", "priority")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    cache: FeatureCache
    max_output_tokens: int
    priority: Priority
    def __init__(self, name: _Optional[str] = ..., cache: _Optional[_Union[FeatureCache, _Mapping[str, object]]] = ..., max_output_tokens: _Optional[int] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class FeatureCache(_message.Message):
    __slots__ = ("mode", "ttl_ms", "sharing", "sampled", "tags")
    class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        MODE_UNSPECIFIED: _ClassVar[FeatureCache.Mode]
        EXACT: _ClassVar[FeatureCache.Mode]
        OFF: _ClassVar[FeatureCache.Mode]
        LOOKUP: _ClassVar[FeatureCache.Mode]
    MODE_UNSPECIFIED: FeatureCache.Mode
    EXACT: FeatureCache.Mode
    OFF: FeatureCache.Mode
    LOOKUP: FeatureCache.Mode
    class Sharing(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SHARING_UNSPECIFIED: _ClassVar[FeatureCache.Sharing]
        TENANT: _ClassVar[FeatureCache.Sharing]
        USER: _ClassVar[FeatureCache.Sharing]
    SHARING_UNSPECIFIED: FeatureCache.Sharing
    TENANT: FeatureCache.Sharing
    USER: FeatureCache.Sharing
    class Sampled(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SAMPLED_UNSPECIFIED: _ClassVar[FeatureCache.Sampled]
        BYPASS: _ClassVar[FeatureCache.Sampled]
        SHARE: _ClassVar[FeatureCache.Sampled]
    SAMPLED_UNSPECIFIED: FeatureCache.Sampled
    BYPASS: FeatureCache.Sampled
    SHARE: FeatureCache.Sampled
    MODE_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    SHARING_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    mode: FeatureCache.Mode
    ttl_ms: int
    sharing: FeatureCache.Sharing
    sampled: FeatureCache.Sampled
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, mode: _Optional[_Union[FeatureCache.Mode, str]] = ..., ttl_ms: _Optional[int] = ..., sharing: _Optional[_Union[FeatureCache.Sharing, str]] = ..., sampled: _Optional[_Union[FeatureCache.Sampled, str]] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...

class Limit(_message.Message):
    __slots__ = ("name", "scope", "unit", "amount", "window_ms", "tenants", "tiers", "keys", "features", "models")
    class Scope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SCOPE_UNSPECIFIED: _ClassVar[Limit.Scope]
        KEY: _ClassVar[Limit.Scope]
        USER: _ClassVar[Limit.Scope]
        TENANT: _ClassVar[Limit.Scope]
        TIER: _ClassVar[Limit.Scope]
        FEATURE: _ClassVar[Limit.Scope]
        MODEL: _ClassVar[Limit.Scope]
        POOL: _ClassVar[Limit.Scope]
        PROVIDER: _ClassVar[Limit.Scope]
        CLIENT_ADDRESS: _ClassVar[Limit.Scope]
        RUN: _ClassVar[Limit.Scope]
        EVAL: _ClassVar[Limit.Scope]
    SCOPE_UNSPECIFIED: Limit.Scope
    KEY: Limit.Scope
    USER: Limit.Scope
    TENANT: Limit.Scope
    TIER: Limit.Scope
    FEATURE: Limit.Scope
    MODEL: Limit.Scope
    POOL: Limit.Scope
    PROVIDER: Limit.Scope
    CLIENT_ADDRESS: Limit.Scope
    RUN: Limit.Scope
    EVAL: Limit.Scope
    class Unit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNIT_UNSPECIFIED: _ClassVar[Limit.Unit]
        REQUESTS: _ClassVar[Limit.Unit]
        TOKENS: _ClassVar[Limit.Unit]
        CONCURRENCY: _ClassVar[Limit.Unit]
    UNIT_UNSPECIFIED: Limit.Unit
    REQUESTS: Limit.Unit
    TOKENS: Limit.Unit
    CONCURRENCY: Limit.Unit
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    WINDOW_MS_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    scope: Limit.Scope
    unit: Limit.Unit
    amount: int
    window_ms: int
    tenants: _containers.RepeatedScalarFieldContainer[str]
    tiers: _containers.RepeatedScalarFieldContainer[str]
    keys: _containers.RepeatedScalarFieldContainer[str]
    features: _containers.RepeatedScalarFieldContainer[str]
    models: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., scope: _Optional[_Union[Limit.Scope, str]] = ..., unit: _Optional[_Union[Limit.Unit, str]] = ..., amount: _Optional[int] = ..., window_ms: _Optional[int] = ..., tenants: _Optional[_Iterable[str]] = ..., tiers: _Optional[_Iterable[str]] = ..., keys: _Optional[_Iterable[str]] = ..., features: _Optional[_Iterable[str]] = ..., models: _Optional[_Iterable[str]] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("name", "path", "path_prefix", "methods", "operation", "pool", "when_full", "next_models", "feature", "resolve", "fail_open_pool")
    class Operation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OPERATION_UNSPECIFIED: _ClassVar[Route.Operation]
        CHAT_COMPLETIONS: _ClassVar[Route.Operation]
        TEXT_COMPLETIONS: _ClassVar[Route.Operation]
        EMBEDDING: _ClassVar[Route.Operation]
        LIST_MODELS: _ClassVar[Route.Operation]
        KSERVE: _ClassVar[Route.Operation]
        FORWARD: _ClassVar[Route.Operation]
        RESPONSES: _ClassVar[Route.Operation]
        MESSAGES: _ClassVar[Route.Operation]
    OPERATION_UNSPECIFIED: Route.Operation
    CHAT_COMPLETIONS: Route.Operation
    TEXT_COMPLETIONS: Route.Operation
    EMBEDDING: Route.Operation
    LIST_MODELS: Route.Operation
    KSERVE: Route.Operation
    FORWARD: Route.Operation
    RESPONSES: Route.Operation
    MESSAGES: Route.Operation
    class WhenFull(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        WHEN_FULL_UNSPECIFIED: _ClassVar[Route.WhenFull]
        FULL_429: _ClassVar[Route.WhenFull]
        FULL_503: _ClassVar[Route.WhenFull]
        NEXT_MODEL: _ClassVar[Route.WhenFull]
    WHEN_FULL_UNSPECIFIED: Route.WhenFull
    FULL_429: Route.WhenFull
    FULL_503: Route.WhenFull
    NEXT_MODEL: Route.WhenFull
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    PATH_PREFIX_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    WHEN_FULL_FIELD_NUMBER: _ClassVar[int]
    NEXT_MODELS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    RESOLVE_FIELD_NUMBER: _ClassVar[int]
    FAIL_OPEN_POOL_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    path_prefix: str
    methods: _containers.RepeatedScalarFieldContainer[str]
    operation: Route.Operation
    pool: str
    when_full: Route.WhenFull
    next_models: _containers.RepeatedScalarFieldContainer[str]
    feature: str
    resolve: Resolve
    fail_open_pool: str
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ..., path_prefix: _Optional[str] = ..., methods: _Optional[_Iterable[str]] = ..., operation: _Optional[_Union[Route.Operation, str]] = ..., pool: _Optional[str] = ..., when_full: _Optional[_Union[Route.WhenFull, str]] = ..., next_models: _Optional[_Iterable[str]] = ..., feature: _Optional[str] = ..., resolve: _Optional[_Union[Resolve, _Mapping[str, object]]] = ..., fail_open_pool: _Optional[str] = ...) -> None: ...

class Resolve(_message.Message):
    __slots__ = ("python", "deadline_ms", "max_batch", "on_failure", "fallback_model", "max_waiting")
    class OnFailure(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ON_FAILURE_UNSPECIFIED: _ClassVar[Resolve.OnFailure]
        REFUSE: _ClassVar[Resolve.OnFailure]
        KEEP_MODEL: _ClassVar[Resolve.OnFailure]
        FALLBACK_MODEL: _ClassVar[Resolve.OnFailure]
    ON_FAILURE_UNSPECIFIED: Resolve.OnFailure
    REFUSE: Resolve.OnFailure
    KEEP_MODEL: Resolve.OnFailure
    FALLBACK_MODEL: Resolve.OnFailure
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    ON_FAILURE_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_MODEL_FIELD_NUMBER: _ClassVar[int]
    MAX_WAITING_FIELD_NUMBER: _ClassVar[int]
    python: str
    deadline_ms: int
    max_batch: int
    on_failure: Resolve.OnFailure
    fallback_model: str
    max_waiting: int
    def __init__(self, python: _Optional[str] = ..., deadline_ms: _Optional[int] = ..., max_batch: _Optional[int] = ..., on_failure: _Optional[_Union[Resolve.OnFailure, str]] = ..., fallback_model: _Optional[str] = ..., max_waiting: _Optional[int] = ...) -> None: ...

class Cache(_message.Message):
    __slots__ = ("max_bytes", "max_entry_bytes", "ttl_ms", "capture_max_bytes", "capture_total_bytes", "follow_ms", "max_followers", "max_followers_total")
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_ENTRY_BYTES_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_FOLLOWERS_FIELD_NUMBER: _ClassVar[int]
    MAX_FOLLOWERS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    max_bytes: int
    max_entry_bytes: int
    ttl_ms: int
    capture_max_bytes: int
    capture_total_bytes: int
    follow_ms: int
    max_followers: int
    max_followers_total: int
    def __init__(self, max_bytes: _Optional[int] = ..., max_entry_bytes: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., capture_max_bytes: _Optional[int] = ..., capture_total_bytes: _Optional[int] = ..., follow_ms: _Optional[int] = ..., max_followers: _Optional[int] = ..., max_followers_total: _Optional[int] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("name", "scope", "unit", "amount", "period", "timezone", "enforcement", "when_exhausted", "next_models", "threshold_percents", "tenants", "tiers", "keys", "features", "models")
    class Unit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNIT_UNSPECIFIED: _ClassVar[Budget.Unit]
        NANOUSD: _ClassVar[Budget.Unit]
        TOKENS: _ClassVar[Budget.Unit]
    UNIT_UNSPECIFIED: Budget.Unit
    NANOUSD: Budget.Unit
    TOKENS: Budget.Unit
    class Period(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PERIOD_UNSPECIFIED: _ClassVar[Budget.Period]
        HOUR: _ClassVar[Budget.Period]
        DAY: _ClassVar[Budget.Period]
        MONTH: _ClassVar[Budget.Period]
    PERIOD_UNSPECIFIED: Budget.Period
    HOUR: Budget.Period
    DAY: Budget.Period
    MONTH: Budget.Period
    class Enforcement(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ENFORCEMENT_UNSPECIFIED: _ClassVar[Budget.Enforcement]
        HARD: _ClassVar[Budget.Enforcement]
        SOFT: _ClassVar[Budget.Enforcement]
    ENFORCEMENT_UNSPECIFIED: Budget.Enforcement
    HARD: Budget.Enforcement
    SOFT: Budget.Enforcement
    class WhenExhausted(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        WHEN_EXHAUSTED_UNSPECIFIED: _ClassVar[Budget.WhenExhausted]
        REFUSE: _ClassVar[Budget.WhenExhausted]
        CACHED_ONLY: _ClassVar[Budget.WhenExhausted]
        NEXT_MODEL: _ClassVar[Budget.WhenExhausted]
    WHEN_EXHAUSTED_UNSPECIFIED: Budget.WhenExhausted
    REFUSE: Budget.WhenExhausted
    CACHED_ONLY: Budget.WhenExhausted
    NEXT_MODEL: Budget.WhenExhausted
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    TIMEZONE_FIELD_NUMBER: _ClassVar[int]
    ENFORCEMENT_FIELD_NUMBER: _ClassVar[int]
    WHEN_EXHAUSTED_FIELD_NUMBER: _ClassVar[int]
    NEXT_MODELS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_PERCENTS_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    scope: Limit.Scope
    unit: Budget.Unit
    amount: int
    period: Budget.Period
    timezone: str
    enforcement: Budget.Enforcement
    when_exhausted: Budget.WhenExhausted
    next_models: _containers.RepeatedScalarFieldContainer[str]
    threshold_percents: _containers.RepeatedScalarFieldContainer[int]
    tenants: _containers.RepeatedScalarFieldContainer[str]
    tiers: _containers.RepeatedScalarFieldContainer[str]
    keys: _containers.RepeatedScalarFieldContainer[str]
    features: _containers.RepeatedScalarFieldContainer[str]
    models: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., scope: _Optional[_Union[Limit.Scope, str]] = ..., unit: _Optional[_Union[Budget.Unit, str]] = ..., amount: _Optional[int] = ..., period: _Optional[_Union[Budget.Period, str]] = ..., timezone: _Optional[str] = ..., enforcement: _Optional[_Union[Budget.Enforcement, str]] = ..., when_exhausted: _Optional[_Union[Budget.WhenExhausted, str]] = ..., next_models: _Optional[_Iterable[str]] = ..., threshold_percents: _Optional[_Iterable[int]] = ..., tenants: _Optional[_Iterable[str]] = ..., tiers: _Optional[_Iterable[str]] = ..., keys: _Optional[_Iterable[str]] = ..., features: _Optional[_Iterable[str]] = ..., models: _Optional[_Iterable[str]] = ...) -> None: ...

class Ledger(_message.Message):
    __slots__ = ("directory", "retention_days", "max_journal_bytes", "on_failure")
    class OnFailure(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ON_FAILURE_UNSPECIFIED: _ClassVar[Ledger.OnFailure]
        COUNT_IN_MEMORY: _ClassVar[Ledger.OnFailure]
        REFUSE: _ClassVar[Ledger.OnFailure]
    ON_FAILURE_UNSPECIFIED: Ledger.OnFailure
    COUNT_IN_MEMORY: Ledger.OnFailure
    REFUSE: Ledger.OnFailure
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    RETENTION_DAYS_FIELD_NUMBER: _ClassVar[int]
    MAX_JOURNAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    ON_FAILURE_FIELD_NUMBER: _ClassVar[int]
    directory: str
    retention_days: int
    max_journal_bytes: int
    on_failure: Ledger.OnFailure
    def __init__(self, directory: _Optional[str] = ..., retention_days: _Optional[int] = ..., max_journal_bytes: _Optional[int] = ..., on_failure: _Optional[_Union[Ledger.OnFailure, str]] = ...) -> None: ...

class Telemetry(_message.Message):
    __slots__ = ("otlp_endpoint", "sampled_per_million", "slow_ms", "metrics_interval_ms")
    OTLP_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    SLOW_MS_FIELD_NUMBER: _ClassVar[int]
    METRICS_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    otlp_endpoint: str
    sampled_per_million: int
    slow_ms: int
    metrics_interval_ms: int
    def __init__(self, otlp_endpoint: _Optional[str] = ..., sampled_per_million: _Optional[int] = ..., slow_ms: _Optional[int] = ..., metrics_interval_ms: _Optional[int] = ...) -> None: ...
