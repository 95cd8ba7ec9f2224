"""forebay's core: the parts that decide, as classes that anyone can use alone.

Owns: the types and the documentation of the compiled extension `forebay._core`; stubtest holds it against the build.
Must not know: how a part works inside. On failure: one tree of exceptions, drawn below; a decision never raises.

    Exception
    ├── ForebayError             base of what the engine and the servers raise on purpose
    │   ├── PolicyRefused        a policy did not validate; `findings` has every reason
    │   ├── LimitExceeded        a limit has no room; nothing was taken
    │   ├── GatewayError         the servers could not be started
    │   ├── BatchRefused         a request does not fit its batch
    │   └── AnswerRefused        an answer is not kept
    ├── ValueError               an argument that can never be right, such as a key of another length
    └── OverflowError            a number that does not fit, such as a negative amount

Bytes, scalars and frozen handles cross this seam. Every class may be shared between threads. `now_ns` is a monotonic
count of nanoseconds, such as `time.monotonic_ns()`, and the same clock in every call on one object.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Final, Literal, TypeAlias, final

from typing_extensions import Buffer

__all__ = [
    "AnswerCollector",
    "AnswerLabels",
    "AnswerRefused",
    "AssembledBatch",
    "BatchAssembler",
    "BatchQueue",
    "BatchQueueStats",
    "BatchRefused",
    "BatchServer",
    "CacheKeys",
    "CachedAnswer",
    "Decision",
    "Engine",
    "ExactCache",
    "ForebayError",
    "Gateway",
    "GatewayError",
    "Held",
    "LaneSettings",
    "LimitExceeded",
    "LimitSpec",
    "Limiter",
    "LimiterStats",
    "ModelShape",
    "PolicyRefused",
    "Remaining",
    "Session",
    "SseReader",
    "StageBatch",
    "StageRequest",
    "TokenCounter",
    "UnknownModel",
    "__version__",
    "build_info",
    "check_policy",
    "explain",
]

__version__: Final[str]

_FindingRow: TypeAlias = tuple[Literal["error", "warning"], str, str, str]
"""Severity, slug, path of the field, message."""

_GivenTensor: TypeAlias = tuple[str, str, Sequence[int], Buffer]
"""Name, datatype, shape, and bytes: row-major, little-endian; an element of `BYTES` behind its length in 4 bytes."""

_TakenTensor: TypeAlias = tuple[str, str, list[int], bytes]
"""The same on the way back."""

def build_info() -> dict[str, str]:
    """How the extension was built.

    Returns: `profile` (`release` or `debug`) and `version`. A bench refuses `debug`.
    """

# === errors ===

class ForebayError(Exception):
    """Base of all errors of forebay's core."""

class PolicyRefused(ForebayError):
    """A policy did not validate; it was refused whole, and the one before stays in force."""

    findings: list[_FindingRow]
    """Every error and warning, in the order of the policy."""

class LimitExceeded(ForebayError):
    """A limit has no room; nothing was taken of any limit."""

    limit: str
    """The limit that keeps the request away longest."""
    requested: int
    remaining: int
    retry_after_ns: int | None
    """When to come back; `None`: never with this request."""

class GatewayError(ForebayError):
    """The gateway's servers could not be started: an address is malformed or taken."""

class BatchRefused(ForebayError):
    """A request or an answer does not fit its batch, or the queue is full."""

    slug: str
    """The stable name of the reason."""

class AnswerRefused(ForebayError):
    """An answer cannot be kept, or cannot be told as a stream."""

    slug: str
    """The stable name of the reason; the message begins with it."""

# === policy ===

def check_policy(policy: bytes) -> list[_FindingRow]:
    """Hold a policy against every rule.

    Shape: `policy` is a serialised `forebay.v1.Policy`.
    Returns: errors and warnings; without an error the policy can be put into force.
    Cost: linear in the policy; the GIL is released.
    """

def explain(
    policy: bytes,
    method: str,
    path: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    as_key_id: str | None = None,
) -> str:
    """Explain the decision on one request under a policy, without a network.

    Shape: `headers` are (name, value) with lower-case names; `as_key_id` decides as that key, whatever they say.
    Returns: a JSON object with `stages` (each `stage`, `ns`, `note`), `record` and `result`.
    Raises: PolicyRefused.
    Cost: builds an engine; the GIL is released.
    """

# === engine ===

@final
class Engine:
    """The decision and all its state: limits, cache, flights, pools, records.

    Shape: `policy` is a serialised `forebay.v1.Policy`; `secret`, 32 bytes, keys all hashes and is random when left
    out; `owner` names this process in dynamic metadata. Table sizes are the policy's, fixed for the engine's life.
    Raises: PolicyRefused; ValueError for a secret of another length.
    Cost: linear in the policy. A decision on a body of 1 KB takes tens of microseconds. The GIL is released wherever a
    policy, a request or a table is worked on.
    """

    def __new__(cls, policy: bytes, *, secret: bytes | None = None, owner: str = "forebay") -> Engine: ...
    @property
    def revision(self) -> str:
        """The revision of the policy in force, 16 hex digits."""

    def swap(self, policy: bytes) -> str:
        """Put a policy into force, at once and whole. Requests that are being decided end under the one before.

        Returns: its revision, 16 hex digits.
        Raises: PolicyRefused; the policy before stays in force.
        Cost: linear in the policy; the GIL is released, and no decision waits.
        """

    def decide(self, method: str, path: str, headers: Sequence[tuple[str, str]], body: bytes | None = None) -> Decision:
        """Decide on a whole request, waiting for nothing: a request that would follow another goes on alone.

        Shape: `headers` are (name, value) with lower-case names; an empty `body` is a request without one.
        Returns: `answer` or `forward`; `resolve` where the route has a Python stage (use `head` there).
        Cost: as a decision; the GIL is released.
        """

    def head(self, headers: Sequence[tuple[str, bytes]], end_stream: bool = False) -> Session:
        """Decide on a request's headers.

        Shape: `headers` are (name, value) with lower-case names, `:method` and `:path` among them; `end_stream`: no
        body follows.
        Returns: a session, whose `decision` is `answer`, `forward` or `body`.
        Cost: a few microseconds; the GIL is released.
        """

    def end(
        self,
        id: str,  # noqa: A002 - the reservation id, as metadata and records name it
        status: int = 200,
        *,
        duration_ns: int = 0,
        local_reply: bool = False,
        aborted: bool = False,
        unreachable: bool = False,
        timed_out: bool = False,
        reset: bool = False,
        answer_bytes: int = 0,
        usage_start: bytes | None = None,
        usage: bytes | None = None,
    ) -> None:
        """Say that a forwarded request ended, as Envoy's access log does; an id that is not open is only counted.

        `local_reply`: no upstream answered, so its tokens and money come back. `unreachable`: the pool could not be
        reached, which counts against its health. `timed_out`, `reset`: a bound on time or the upstream ended it.
        `usage`: the answer's usage object as JSON (`usage_start`: that of a stream's beginning, where there are two);
        without one the use is estimated from `answer_bytes`.
        Raises: ValueError for an id that is no 32 hex digits.
        """

    def stream_closed(self, id: str) -> None:  # noqa: A002 - as above
        """Say that the stream of a buffered request closed: its slot is free, its tokens stay taken until `end`.

        Raises: ValueError for an id that is no 32 hex digits.
        """

    def capture(
        self,
        id: str,  # noqa: A002 - as above
        body: bytes,
        *,
        status: int = 200,
        content_type: str = "application/json",
        content_encoding: str | None = None,
        end: Literal["complete", "cut"] = "complete",
    ) -> str:
        """Feed the whole response of a request that was forwarded with `capture`; a stream of events is folded.

        `end` is `cut` where the connection broke: only a stream that was complete by its protocol is kept then.
        Returns: `stored`, `replaced`, or the slug of why it was not kept; `unknown` if nobody waits for it.
        Raises: ValueError for an id that is no 32 hex digits, or another `end`.
        Cost: linear in the body; the GIL is released.
        """

    def invalidate(
        self,
        *,
        tag: str | None = None,
        model: str | None = None,
        revision: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Remove cached answers: of a tag, of a model (and revision), of a tenant, or all without an argument.

        Answers that are being computed meanwhile are not kept either.
        Returns: how many were removed.
        Cost: walks all entries, about 1 ms for 40,000; the GIL is released.
        """

    def grant(self, token: int, granted: int, left: int) -> None:
        """Put a drawn lease into its budget's bucket and wake who waits for it. An unknown token changes nothing.

        Units: `granted` was drawn and `left` could still be, in the budget's own unit.
        """

    def lease_failed(self, token: int) -> None:
        """Say that nothing could be drawn for an ask: who waits for it asks again, or is refused with 503."""

    def lease_balances(self) -> list[tuple[str, str, int, int, int]]:
        """What every bucket of a budget was leased: (budget, value, period_start_s, granted, used)."""

    def count_refused_policy(self) -> None:
        """Count a policy that was refused before it reached the engine, such as a file that is no YAML."""

    def observe_pool(self, name: str, routable: bool, healthy: bool) -> None:
        """Say whether Envoy has a pool and finds it healthy. What no policy names yet begins so when one does."""

    def pools(self) -> list[tuple[str, int, int, bool, bool]]:
        """Every pool as (name, requests in flight, tokens reserved, routable, healthy)."""

    def metrics_text(self) -> str:
        """The counters in Prometheus' text format 0.0.4. The GIL is released."""

    def records_json(self, limit: int) -> str:
        """The last `limit` decision records, oldest first, as a JSON array. The GIL is released."""

    def drain(self) -> None:
        """Refuse new requests with 503 from now on; those in flight go on."""

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""

    @property
    def open_reservations(self) -> int:
        """Forwarded requests that nothing ended yet."""

@final
class Session:
    """One request between its headers and its decision. Dropped before one, it gives back what was taken for it."""

    @property
    def decision(self) -> Decision:
        """What followed from the headers: `answer`, `forward`, or `body` where the body decides."""

    def body(self, body: bytes) -> Decision:
        """Decide on the whole body. After `follow` or `resolve`, wait and call it again with the same body.

        Returns: `answer`, `forward`, `follow` (then `wait`) or `resolve` (then `resolved`).
        Raises: ValueError if the decision was made already.
        Cost: as a decision; the GIL is released.
        """

    @property
    def message_timeouts_ns(self) -> tuple[int, int]:
        """How long Envoy waits for one answer, and the longest wait that may be announced instead.

        They are those of the policy that decides on this request; zeros once it is decided.
        """

    def wait(self, timeout_ns: int) -> bool:
        """After `follow` or `lease`: wait for the equal request in flight, or for the lease.

        Returns: whether that came. Otherwise a follower goes on alone, unless it waits again.
        Cost: blocks at most `timeout_ns`, the GIL released.
        """

    def resolved(self, model: str | None, reason: str = "") -> None:
        """After `resolve`: say what the stage answered; `model=None` means that it failed."""

@final
class Decision:
    """What follows from a request, frozen.

    `answer`: forebay answers itself. `forward`: on to a pool. `body`: send the body. `follow`, `lease`, `resolve`:
    wait.
    """

    @property
    def action(self) -> Literal["answer", "forward", "body", "follow", "lease", "resolve"]:
        """What follows."""

    @property
    def id(self) -> str:
        """The reservation id, 32 hex digits."""

    @property
    def status(self) -> int:
        """`answer`: the HTTP status; otherwise 0."""

    @property
    def headers(self) -> list[tuple[str, str]]:
        """`answer`: (name, value) pairs beside `content-length`."""

    @property
    def body(self) -> bytes | None:
        """`answer`: the body. `forward`: the changed body, or `None` where it goes on as it came."""

    @property
    def grpc(self) -> tuple[int, str] | None:
        """`answer`: gRPC status and message, for gRPC callers."""

    @property
    def code(self) -> str:
        """`answer`: a refusal's slug; empty for an answer that is none."""

    @property
    def pool(self) -> str:
        """`forward`: the pool."""

    @property
    def capture(self) -> bool:
        """`forward`: copy the response to capture."""

    @property
    def batch(self) -> bool:
        """`forward`: the pool is the batch service, which needs the id."""

    @property
    def traceparent(self) -> str | None:
        """`forward`: the trace context that the upstream gets; `None`: what the client sent goes on."""

    @property
    def drop_usage(self) -> bool:
        """`forward`: the stream's usage event was asked for by us, so the client must not see it."""

    @property
    def metadata(self) -> dict[str, str | int]:
        """`forward`: dynamic metadata in the namespace `forebay`."""

    @property
    def wait_ns(self) -> int:
        """`follow`, `lease` and `resolve`: the longest wait."""

    @property
    def target(self) -> str:
        """`resolve`: the stage, `package.module:function`; otherwise empty."""

    @property
    def request(self) -> StageRequest | None:
        """`resolve`: the request as the stage sees it."""

# === servers ===

@final
class Gateway:
    """The servers that Envoy talks to, on threads of their own that never take the GIL.

    Shape: `ext_proc` and `batch` are `host:port` with a numeric host, port 0 for any free one.
    Units: `workers` in threads; `max_body_bytes` bounds one message. `journal` is the folder that records of what
    requests cost are written to, at most `max_journal_bytes` at once; without it none are made.
    Raises: GatewayError when an address is malformed or taken, or the journal cannot be begun.
    """

    def __new__(
        cls,
        engine: Engine,
        ext_proc: str,
        batch: str,
        workers: int,
        max_body_bytes: int,
        *,
        journal: str | PathLike[str] | None = None,
        max_journal_bytes: int = 268435456,
    ) -> Gateway: ...
    @property
    def ext_proc_address(self) -> str:
        """Where `ext_proc` and the access log listen, `host:port`."""

    @property
    def batch_address(self) -> str:
        """Where the batch service listens, `host:port`."""

    @property
    def batches(self) -> BatchQueue:
        """Batches that wait to be sent."""

    def next_stage_batch(self, timeout_ms: int) -> StageBatch | None:
        """The next requests of one Python stage, oldest first.

        Returns: a batch, empty when nothing came; `None` once the gateway stopped.
        Cost: blocks at most `timeout_ms`, the GIL released.
        """

    def next_leases(self, timeout_ms: int) -> list[tuple[int, str, str, str, int, int, int, int]] | None:
        """The next buckets of budgets that need a lease; each token is answered with `Engine.grant` or `lease_failed`.

        Returns: (token, budget, value, unit, period_start_s, period_end_s, amount, want) each, empty when nothing came;
        `None` once the gateway stopped.
        Cost: blocks at most `timeout_ms`, the GIL released.
        """

    @property
    def journal_counts(self) -> tuple[int, int]:
        """Bytes that the journal wrote, and writes that failed and were tried again."""

    def shutdown(self, wait_ms: int) -> int:
        """Refuse new requests, wait at most `wait_ms` for those in flight, and stop all threads.

        Returns: how many were still in flight. Called again, 0.
        Cost: blocks, the GIL released.
        """

@final
class StageBatch:
    """Requests of one Python stage that are decided in one call. Dropped without `answer`, they have failed."""

    @property
    def target(self) -> str:
        """`package.module:function`; empty for an empty batch."""

    @property
    def requests(self) -> list[StageRequest]:
        """The requests, oldest first."""

    def answer(self, answers: Sequence[tuple[str, str] | None]) -> None:
        """Answer all requests: for each (model, reason), or `None` where the stage failed.

        Raises: ValueError if the number differs or the batch was answered already.
        """

    def __len__(self) -> int: ...

@final
class StageRequest:
    """A request as a stage sees it, frozen."""

    @property
    def model(self) -> str:
        """The model as it was named."""

    @property
    def route(self) -> str:
        """The route."""

    @property
    def tenant(self) -> str:
        """The tenant."""

    @property
    def user(self) -> str:
        """The user; empty: none."""

    @property
    def feature(self) -> str:
        """The feature; empty: none."""

    @property
    def tier(self) -> str:
        """The class of service; empty: none."""

    @property
    def tools(self) -> bool:
        """Tools are offered."""

    @property
    def vision(self) -> bool:
        """Images are sent."""

    @property
    def json(self) -> bool:
        """JSON is demanded."""

    @property
    def stream(self) -> bool:
        """A stream is asked for."""

    @property
    def body(self) -> bytes:
        """The request's body, as it came."""

# === tokens and keys ===

@final
class TokenCounter:
    """Counts the tokens of texts and of chat requests, without a download.

    Shape: `tokenizer` is `o200k_base` or `cl100k_base`, which are exact, or a named estimate: `estimate:generic`,
    `estimate:llama`, `estimate:llama2`, `estimate:mistral`, `estimate:qwen`, `estimate:deepseek`, `estimate:gemma`.
    `memo_entries`: how many texts of a kilobyte or more are remembered, for example 65,536; 0 remembers nothing.
    Raises: ValueError for a name that is not known; it lists those that are.
    Cost: the first counter of an encoding builds its tables, about 0.2 s and 25 MB; 32 bytes for each memo entry.

    >>> from forebay._core import TokenCounter
    >>> counter = TokenCounter("o200k_base")
    >>> counter.count("hello world")
    2
    >>> counter.count_chat(b'{"messages":[{"role":"user","content":"hello world"}]}')
    (9, 0, True)
    """

    def __new__(cls, tokenizer: str, *, memo_entries: int = 0) -> TokenCounter: ...
    @property
    def tokenizer(self) -> str:
        """The tokenizer's name."""

    @property
    def exact(self) -> bool:
        """Whether the tokenizer's vocabulary is known, so that texts are counted exactly."""

    def count(self, text: str) -> int:
        """Tokens of one text; names of special tokens count as ordinary text.

        Cost: linear; a kilobyte of English in about 4 µs. The GIL is released above 16 KiB.
        """

    def count_batch(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text.

        Cost: as `count` for each; one crossing for all. The GIL is released.
        """

    def count_chat(self, body: bytes) -> tuple[int, int, bool]:
        """Tokens of the prompt of a chat completions request.

        Shape: `body` is the request's JSON.
        Returns: tokens, by how many the true number may be higher, and whether every part was counted by a published
        vocabulary and a published rule.
        Raises: ValueError for a body that is not one valid JSON object.
        Cost: linear; texts that the memo knows cost their hash. The GIL is released above 16 KiB.
        Source: OpenAI Cookbook, "How to count tokens with tiktoken".
        """

    def memo_stats(self) -> tuple[int, int]:
        """Look-ups that the memo answered, and those that it did not."""

    def ranks(self) -> list[tuple[bytes, int]]:
        """Every token of the vocabulary as bytes and rank: the mergeable ranks of a reference tokenizer.

        Raises: ValueError for an estimate, which has none.
        """

@final
class CacheKeys:
    r"""Makes the identity of an answer: a keyed BLAKE3 over an injective form of the effective request.

    Shape: `secret` has 32 bytes; a key has 32 bytes.
    Raises: ValueError for a secret of another length.
    Cost: linear in the body, about 2 µs for 1 KB; the GIL is held.

    >>> from forebay._core import CacheKeys
    >>> keys = CacheKeys(bytes(32))
    >>> body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0}'
    >>> one = keys.of(body, tenant="acme", model="small-chat")
    >>> one == keys.of(body.replace(b'"hi"', b'"h\\u0069"'), tenant="acme", model="small-chat")
    True
    >>> one == keys.of(body, tenant="bistro", model="small-chat")
    False
    """

    def __new__(cls, secret: bytes) -> CacheKeys: ...
    def of(
        self,
        body: bytes,
        *,
        tenant: str,
        model: str,
        revision: str = "",
        user: str | None = None,
        feature: str = "",
        output_tokens: int | None = None,
        operation: Literal["chat", "completion", "embedding"] = "chat",
    ) -> bytes:
        """The key of the answer to a body.

        What names the model, the form of the answer or the asker does not count in the body; the arguments count as
        given.
        Raises: ValueError when the body is no acceptable JSON object of its operation, or `tenant` is empty.
        """

# === limits ===

@final
class LimitSpec:
    """One limit: what is counted, per what, and how much of it passes in which time.

    `LimitSpec("minute", "tokens", capacity=60_000, window_ns=60 * 10**9)` lets each user have 60,000 tokens in any
    minute; `LimitSpec("slots", "concurrency", scope="pool", capacity=32)` lets a pool have 32 requests in flight.

    Shape: `sliding_window` never admits more than `capacity` in any span of the window, `fixed_window` in each aligned
    window, `token_bucket` never more than `burst` at once, draining at `capacity` per window.
    Units: `capacity` and `burst` in requests, tokens or requests in flight; `window_ns` is 0 for concurrency.
    Raises: ValueError for an unknown word, or a definition that cannot be kept.
    """

    def __new__(
        cls,
        name: str,
        kind: Literal["requests", "tokens", "concurrency"],
        *,
        capacity: int,
        window_ns: int = 0,
        scope: Literal[
            "key", "user", "tenant", "tier", "feature", "model", "pool", "provider", "client_address"
        ] = "user",
        algorithm: Literal["sliding_window", "fixed_window", "token_bucket"] = "sliding_window",
        burst: int = 0,
    ) -> LimitSpec: ...
    @property
    def name(self) -> str:
        """The limit's name."""

    @property
    def kind(self) -> str:
        """What it counts."""

    @property
    def scope(self) -> str:
        """Per what it counts."""

    @property
    def capacity(self) -> int:
        """The most it admits, per window or in flight."""

    @property
    def window_ns(self) -> int:
        """The length of its window in ns; 0 for concurrency."""

@final
class Limiter:
    """Counts what scope values take, over several limits at once, all or nothing.

    Shape: `specs` have distinct names; `max_buckets` pairs of limit and scope value are remembered, for example
    100,000. When all are live, newcomers of a limit share one bucket: nobody is refilled by being forgotten.
    Units: `now_ns` is any monotonic count of ns. Where it steps back, time stands still.
    Raises: ValueError for two limits of one name.
    Cost: about 0.2 KB for each bucket; the GIL is held, since a call is shorter than letting go of it.

    >>> from forebay._core import Limiter, LimitExceeded, LimitSpec
    >>> minute = LimitSpec("minute", "tokens", capacity=1_000, window_ns=60 * 10**9)
    >>> limiter = Limiter([minute])
    >>> held = limiter.reserve([("minute", "acme/ada", 800)], now_ns=0)
    >>> held.settle(actual_tokens=120, now_ns=2)
    True
    >>> limiter.peek("minute", "acme/ada", now_ns=2).remaining
    880
    """

    def __new__(cls, specs: Sequence[LimitSpec], *, max_buckets: int = 100_000) -> Limiter: ...
    def reserve(self, claims: Sequence[tuple[str, str, int]], now_ns: int) -> Held:
        """Take all claims, or none of them.

        Shape: claims are (name of a limit, value of its scope, amount). A value is any string that is one party's
        alone: put the tenant into it (`acme/ada`).
        Returns: what is held, to be settled and released at the end of the request.
        Raises: LimitExceeded where a limit has no room, naming the one that keeps the request away longest; then
        nothing was taken. ValueError for an unknown name, OverflowError for a negative amount.
        Cost: O(claims), about 1 µs; the GIL is held.
        """

    def peek(self, limit_name: str, scope_value: str, now_ns: int) -> Remaining:
        """What is left of a limit for one value of its scope; takes nothing.

        Returns: what `x-ratelimit-*` headers say.
        Raises: ValueError for an unknown name.
        Cost: O(1), about 0.5 µs; the GIL is held.
        """

    def stats(self) -> LimiterStats:
        """What the limiter holds and has done."""

@final
class Held:
    """What `Limiter.reserve` took. Dropping it gives nothing back: settle tokens, release slots.

    Each method acts once; a later call does nothing and returns `False`, so that the first of several ends wins.
    """

    def settle(self, actual_tokens: int, now_ns: int) -> bool:
        """Replace the tokens that were reserved by those really used; less is given back, more is charged now.

        Returns: whether this call did it.
        Cost: O(token claims); the GIL is held.
        """

    def release(self, now_ns: int) -> bool:
        """Free the concurrency slots.

        Returns: whether this call did it.
        Cost: O(concurrency claims); the GIL is held.
        """

    @property
    def remaining(self) -> list[int]:
        """What was left of each limit just after, in the order of the claims."""

    def __len__(self) -> int: ...

@final
class Remaining:
    """What is left of one limit for one value of its scope."""

    @property
    def limit(self) -> int:
        """The most the limit admits at once."""

    @property
    def remaining(self) -> int:
        """What is left now."""

    @property
    def reset_ns(self) -> int:
        """Ns until all of it is there again, if nothing more is taken; 0 for concurrency."""

@final
class LimiterStats:
    """What a limiter holds and has done."""

    @property
    def buckets(self) -> int:
        """Buckets remembered."""

    @property
    def overflow_buckets(self) -> int:
        """Buckets that newcomers share because the table was full."""

    @property
    def evicted(self) -> int:
        """Buckets forgotten, each as good as new at that time."""

    @property
    def overflowed(self) -> int:
        """Claims charged to a shared bucket: while this grows, `max_buckets` is too small."""

# === cache and answers ===

@final
class AnswerLabels:
    """What a stored answer is invalidated by, and what kind of answer it is.

    Raises: ValueError when `kind` is not `chat`, `completion` or `embedding`.

    >>> from forebay._core import AnswerLabels
    >>> AnswerLabels("acme", "small-chat", revision="2026-11", tags=["faq"]).tenant
    'acme'
    """

    def __new__(
        cls,
        tenant: str,
        model: str,
        *,
        revision: str = "",
        tags: Sequence[str] = ...,
        kind: Literal["chat", "completion", "embedding"] = "chat",
    ) -> AnswerLabels: ...
    @property
    def tenant(self) -> str:
        """Whose the answer is."""

    @property
    def model(self) -> str:
        """The model that gave it."""

    @property
    def revision(self) -> str:
        """The model's revision; empty where there is none."""

    @property
    def tags(self) -> list[str]:
        """The tags that it carries."""

    @property
    def kind(self) -> str:
        """`chat`, `completion` or `embedding`."""

@final
class CachedAnswer:
    """An answer that was found; it stays valid when the cache drops it meanwhile."""

    @property
    def body(self) -> bytes:
        """The complete plain JSON answer, as it was stored."""

    @property
    def labels(self) -> AnswerLabels:
        """Its labels."""

    @property
    def stored_ns(self) -> int:
        """When it was stored, on the clock that `store` was given."""

    @property
    def expires_ns(self) -> int:
        """From when on it is no longer found."""

@final
class ExactCache:
    """Complete answers under 32-byte keys, bounded in bytes, with age and invalidation.

    Units: bytes; `now_ns` is any monotonic clock, the same in every call.
    Cost: a look-up is one lock and one probe, well under a microsecond; the GIL is held. An entry counts as its text
    plus an eighth plus under 900 bytes; the sum never passes `max_bytes`.
    Source: S3-FIFO, Yang et al., SOSP 2023.

    >>> from forebay._core import AnswerLabels, ExactCache
    >>> cache = ExactCache(max_bytes=1 << 20, max_entry_bytes=1 << 16)
    >>> labels = AnswerLabels("acme", "small-chat", tags=["faq"])
    >>> ticket = cache.begin_fill()
    >>> cache.store(bytes(32), b'{"id":"a"}', labels, ticket=ticket, ttl_ns=60_000_000_000, now_ns=0)
    'stored'
    >>> cache.lookup(bytes(32), now_ns=1).body
    b'{"id":"a"}'
    >>> cache.invalidate_tag("faq")
    1
    """

    def __new__(cls, max_bytes: int, max_entry_bytes: int = 1_048_576) -> ExactCache: ...
    def begin_fill(self) -> int:
        """A ticket for an answer that is computed from now on; take it before the look-up that misses.

        Returns: a number for `store`, which then refuses the answer if an invalidation came in between.
        """

    def lookup(self, key: bytes, *, now_ns: int, max_age_ns: int | None = None) -> CachedAnswer | None:
        """Find the answer under `key`.

        Shape: `key`: 32 bytes. Units: `max_age_ns` as in `cache-control: max-age`, times 10⁹.
        Returns: the answer, or `None` on a miss.
        Raises: ValueError when the key has another length.
        """

    def store(
        self, key: bytes, body: bytes, labels: AnswerLabels, *, ticket: int, ttl_ns: int, now_ns: int
    ) -> Literal["stored", "replaced", "too_large", "expired", "stale"]:
        """Store a complete answer.

        Shape: `key`: 32 bytes. Units: `ttl_ns` from `now_ns` on.
        Returns: `stored`, `replaced`, or why not.
        Raises: ValueError when the key has another length.
        Cost: one copy of `body`.
        """

    def stream(self, key: bytes, answer: CachedAnswer) -> bytes:
        """The answer as an event stream that ends with `data: [DONE]`; rendered once, then kept with the answer.

        Raises: AnswerRefused when a part of the answer has no place in a stream.
        """

    def stream_with_usage(self, key: bytes, answer: CachedAnswer) -> bytes:
        """As `stream`, with the usage in an event before the last, as `stream_options.include_usage` asks for it.

        Raises: AnswerRefused also when the answer has no usage.
        """

    def invalidate_tag(self, tag: str) -> int:
        """Remove what carries `tag`, and refuse such answers that are being computed.

        Returns: how many were removed.
        Cost: walks all entries, one shard locked at a time; about 1 ms for 40,000.
        """

    def invalidate_model(self, model: str, revision: str | None = None) -> int:
        """As `invalidate_tag`, for the answers of a model: of one revision, or of all."""

    def invalidate_tenant(self, tenant: str) -> int:
        """As `invalidate_tag`, for a tenant's answers."""

    def clear(self) -> int:
        """As `invalidate_tag`, for everything."""

    def stats(self) -> dict[str, int]:
        """What the cache holds and has done, by name."""

@final
class AnswerCollector:
    """One response on its way past: chunks in, the complete plain JSON answer out, or the reason why not.

    Units: bytes. `status` and the two headers are those of the response.
    Raises: ValueError when `kind` is unknown.
    Cost: linear in the bytes pushed; holds the answer, not the stream; the GIL is held.

    >>> from forebay._core import AnswerCollector
    >>> collector = AnswerCollector("chat", 200, "application/json", max_answer_bytes=1 << 20)
    >>> collector.push(b'{"choices":[{"message":{"content":"hi"},')
    >>> collector.push(b'"finish_reason":"stop"}]}')
    >>> collector.finish()[:10]
    b'{"choices"'
    """

    def __new__(
        cls,
        kind: Literal["chat", "completion", "embedding"],
        status: int,
        content_type: str,
        *,
        content_encoding: str | None = None,
        max_answer_bytes: int = 1_048_576,
    ) -> AnswerCollector: ...
    def push(self, chunk: bytes) -> None:
        """Take the next chunk of the body; nothing is kept once the answer is known not to be storable."""

    def finish(self) -> bytes:
        """End a body that came whole.

        Returns: the complete plain JSON answer; of a stream, folded.
        Raises: AnswerRefused with the reason why the answer is not storable; ValueError when it was ended before.
        """

    def cut(self) -> bytes:
        """End a body whose connection broke; only a stream that was complete by its protocol is still an answer.

        Raises: as `finish`.
        """

    @property
    def refusal(self) -> str | None:
        """The slug of the reason why the answer will not be storable, as soon as it is known."""

@final
class SseReader:
    r"""Reads server-sent events from chunks that may be split at any byte.

    Units: bytes of one event, and of the whole stream.
    Cost: linear in the bytes fed; the GIL is held.
    Source: WHATWG HTML, 9.2.6.

    >>> from forebay._core import SseReader
    >>> reader = SseReader(max_event_bytes=1 << 20, max_stream_bytes=1 << 26)
    >>> reader.feed(b"data: a\n\nda")
    [(b'', b'a')]
    >>> reader.feed(b"ta: [DONE]\n\n")
    [(b'', b'[DONE]')]
    """

    def __new__(cls, max_event_bytes: int = 1_048_576, max_stream_bytes: int = 67_108_864) -> SseReader: ...
    def feed(self, chunk: bytes) -> list[tuple[bytes, bytes]]:
        """Read on.

        Returns: the events that are now complete, each as type (empty means `message`) and data.
        Raises: ValueError past a bound, and in every later call; events of the same chunk are then lost.
        """

# === batches ===

@final
class ModelShape:
    """What a model takes and gives, as requests are held against it.

    Shape: `inputs` are (name, datatype such as `FP32`, dimensions without the batch dimension, -1 for any size,
    `required` or `optional`); `outputs` are names.
    Units: `max_batch_rows` in rows, for example 64; 0 is a model without a batch dimension: requests pass one by one
    and the dimensions are whole shapes. `ragged_inputs` are (name, dimension behind the rows, what padding is made
    of); `ragged_outputs` are (name, dimension that is cut back); `mask` is the input of ones and zeros.
    Raises: ValueError for an unknown datatype, presence or name, a dimension that is not there, or padding that the
    datatype cannot hold.

    >>> from forebay._core import ModelShape
    >>> inputs = [("ids", "INT64", [-1], "required"), ("mask", "INT64", [-1], "optional")]
    >>> ModelShape(inputs, ["embedding"], max_batch_rows=64)
    ModelShape(inputs='ids, mask', outputs='embedding', max_batch_rows=64)
    """

    def __new__(
        cls,
        inputs: Sequence[tuple[str, str, Sequence[int], str]],
        outputs: Sequence[str],
        *,
        max_batch_rows: int,
        ragged_inputs: Sequence[tuple[str, int, float]] = ...,
        ragged_outputs: Sequence[tuple[str, int]] = ...,
        mask: str | None = None,
    ) -> ModelShape: ...

@final
class LaneSettings:
    """How a model's batches are made.

    Units: `instances` are batches that run at once over all endpoints, `slots` batches that may be in flight, so one
    more for each endpoint; `max_padded_tokens` is rows times padded length of one batch, 0 for no bound;
    `preferred_rows` and `length_classes` rise; without `length_classes` lengths are learned, at most
    `max_length_classes` at a time.
    Shape: `servers` are (`host:port`, batches that it may have at once) of those that batches may go to; without them
    any server of the pool. `resends`: how often a batch may be sent to another server when one had it and failed.
    Raises: ValueError for a 0 where there must be something, or numbers that do not rise.
    """

    def __new__(
        cls,
        *,
        instances: int = 1,
        slots: int = 2,
        max_padded_tokens: int = 0,
        preferred_rows: Sequence[int] = ...,
        length_classes: Sequence[int] = ...,
        max_length_classes: int = 32,
        servers: Sequence[tuple[str, int]] = ...,
        resends: int = 1,
    ) -> LaneSettings: ...

@final
class BatchAssembler:
    """Joins requests for one model into batches along the first dimension, padded where the model says so.

    Which batch leaves when: the most urgent priority leads, inside it the tenant that was served least for its weight,
    of that the earliest deadline; with it goes what is of about its length, so that all that waits costs least by the
    latency learned so far. At once when an instance is idle, otherwise just before one is expected to be.
    Shape: tensors are tuples of name, datatype, shape and bytes (any buffer; row-major, little-endian).
    Units: `now_ns` and `deadline_ns` any monotonic count of ns; the bounds are rows, tokens (rows times length,
    unpadded) and bytes that may wait.
    Cost: pushing `bytes` copies nothing; the GIL is held. Any number of threads may call it.

    >>> import struct
    >>> from forebay._core import BatchAssembler, LaneSettings, ModelShape
    >>> inputs = [("ids", "INT64", [-1], "required")]
    >>> ragged = {"ragged_inputs": [("ids", 0, 0)], "ragged_outputs": [("ids", 0)]}
    >>> shape = ModelShape(inputs, ["ids"], max_batch_rows=8, **ragged)
    >>> assembler = BatchAssembler(shape, LaneSettings())
    >>> one = assembler.push([("ids", "INT64", [1, 1], struct.pack("<q", 7))], now_ns=0)
    >>> two = assembler.push([("ids", "INT64", [2, 2], struct.pack("<4q", 1, 2, 3, 4))], now_ns=0)
    >>> batch = assembler.take(now_ns=0)
    >>> batch.rows, batch.length, struct.unpack("<6q", batch.inputs()[0][3])
    (3, 2, (7, 0, 1, 2, 3, 4))
    >>> answers = batch.split(batch.inputs(), now_ns=5_000_000)
    >>> [(ticket == one, tensors[0][2]) for ticket, tensors in answers]
    [(True, [1, 1]), (False, [2, 2])]
    """

    def __new__(
        cls,
        shape: ModelShape,
        settings: LaneSettings,
        *,
        max_rows: int = 16_384,
        max_tokens: int = 4_194_304,
        max_bytes: int = 268_435_456,
    ) -> BatchAssembler: ...
    def push(
        self,
        inputs: Sequence[_GivenTensor],
        now_ns: int,
        *,
        tenant: str = "",
        weight: int = 1,
        priority: str = "P1",
        deadline_ns: int = ...,
    ) -> int:
        """Queue one request.

        Returns: a ticket, which names it in the answer.
        Raises: BatchRefused when it does not fit the model or the queue, or has more rows than a batch; ValueError for
        an unknown datatype or priority.
        """

    def take(self, now_ns: int) -> AssembledBatch | None:
        """The most urgent batch that may leave now, if one may."""

    def wake_at_ns(self, now_ns: int) -> int | None:
        """When `take` has something without another `push` or end of a batch; 0 is at once, `None` not before that."""

    def cancel(self, ticket: int) -> bool:
        """Take a request back.

        Returns: whether it had not left yet.
        """

    def waiting(self) -> tuple[int, int, int, int]:
        """What waits: requests, rows, tokens and bytes."""

@final
class AssembledBatch:
    """Requests that leave together. Its slot is free again after `split`, `fail`, or when it is dropped."""

    @property
    def rows(self) -> int:
        """Rows of all requests."""

    @property
    def length(self) -> int:
        """The length that all of them are padded to; 1 where the model has no ragged input."""

    @property
    def tickets(self) -> list[int]:
        """The requests in the order of their rows."""

    def inputs(self) -> list[_TakenTensor]:
        """The inputs over all rows, padded.

        Raises: ValueError after the batch has ended.
        Cost: one copy of the tensors, two for more than one request or padding; the GIL is held.
        """

    def split(self, outputs: Sequence[_GivenTensor], now_ns: int | None = None) -> list[tuple[int, list[_TakenTensor]]]:
        """Cut the model's outputs into the rows of each request, without padding, and end the batch.

        `now_ns`: latency is learned from it; without it the batch teaches nothing.
        Returns: for each request its ticket and its tensors.
        Raises: BatchRefused when an output does not have the batch's rows or length; ValueError after the batch has
        ended.
        Cost: one copy of the outputs; the GIL is held.
        """

    def fail(self) -> None:
        """End the batch without an answer."""

@final
class BatchQueue:
    """Where requests become batches and answers find back.

    The server that holds the queue sends the batches itself; Python says which servers there are, what their models
    take, and which are ready.

    Units: `max_rows`, `max_tokens` (rows times length, unpadded) and `max_bytes` are what may wait for one pool that
    `set_bounds` gave none of its own.
    Cost: a request waits without a thread, and no batch passes through Python.
    """

    def __new__(
        cls, *, max_rows: int = 16_384, max_tokens: int = 4_194_304, max_bytes: int = 268_435_456
    ) -> BatchQueue: ...
    def next(self, timeout_ms: int) -> UnknownModel | None:
        """Wait for a model that somebody asks for and nobody knows. Any number of threads may wait.

        Returns: `None` when nothing came in time, or when the queue is closed (`closed` tells).
        Cost: asleep until there is one; the GIL is released.
        """

    def doubted(self, timeout_ms: int) -> list[tuple[str, str, int]]:
        """Wait for servers that have to be looked at, since calls to them failed.

        Returns: (pool, `host:port`, number of the gRPC status, such as 14 for UNAVAILABLE: the server failed, and not
        the request); nothing when there was none in time, or when the queue is closed.
        Cost: asleep until there is one; the GIL is released.
        """

    def fail(self, id: int, grpc_code: int, message: str) -> bool:  # noqa: A002 - as `UnknownModel.id`
        """Say that what `next` gave cannot be learned.

        Shape: `grpc_code` is the number of a gRPC status, for example 14 for UNAVAILABLE; `message` is the client's.
        Returns: whether anyone waited for it.
        Raises: ValueError for 0 or a number that is no gRPC status.
        """

    def learned(self, id: int, shape: ModelShape, settings: LaneSettings) -> bool:  # noqa: A002 - as above
        """Say what `next` gave: the model's shape, and how its batches are made.

        Returns: whether anyone waited for it.
        """

    def set_model(self, pool: str, model: str, version: str, shape: ModelShape, settings: LaneSettings) -> None:
        """Make a model's shape known without being asked."""

    def forget(self, pool: str, model: str, version: str) -> None:
        """Forget a model's shape: its next request has it learned anew. What waits goes on as it was."""

    def set_endpoints(self, pool: str, endpoints: Sequence[tuple[str, str, bytes | None, bool]]) -> None:
        """Say which servers a pool has.

        Shape: `endpoints` are (`host:port`, the name that TLS sends and verifies, empty for plain text; the authorities
        as PEM, None for the system's; whether the server is ready).
        Raises: ValueError for an address or authorities that cannot be read; the pool then keeps what it had.
        Cost: servers that stay keep their connections; the GIL is released.
        """

    def set_bounds(self, pool: str, *, max_rows: int, max_tokens: int, max_bytes: int, timeout_ms: int) -> None:
        """Give a pool bounds of its own. What waits stays.

        Units: as the class's; `timeout_ms` is how long a request without a deadline of its own waits, such as 60,000.
        """

    def close(self) -> None:
        """Take nothing more and answer all that waits with UNAVAILABLE. What was sent may still be answered."""

    def drain(self, timeout_ms: int) -> bool:
        """Close, wait for what was sent, and answer the rest of it with UNAVAILABLE.

        Returns: whether all of it had ended in time.
        """

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    def waiting(self, pool: str) -> tuple[int, int, int, int]:
        """Requests, rows, tokens and bytes that wait for a pool."""

    def metrics_text(self) -> str:
        """All metrics as Prometheus text.

        Cost: linear in what waits and in the models; the GIL is released.
        """

    def stats(self) -> BatchQueueStats:
        """Counters since the start."""

@final
class BatchQueueStats:
    """What a batch queue has done."""

    @property
    def batches(self) -> int:
        """Batches that left."""

    @property
    def requests(self) -> int:
        """Requests in them."""

    @property
    def rows(self) -> int:
        """Rows in them."""

    @property
    def refused(self) -> int:
        """Requests that ended with an error, whatever it was."""

    @property
    def cancelled(self) -> int:
        """Requests whose client left or whose time was over."""

    @property
    def in_flight(self) -> int:
        """Batches, calls and models to learn that servers have now."""

    @property
    def resends(self) -> int:
        """Batches and calls that went to a second server."""

    @property
    def failures(self) -> dict[str, int]:
        """What servers failed, by the name of its gRPC status, such as `UNAVAILABLE`."""

@final
class UnknownModel:
    """A model that somebody asks for. It is ended exactly once, by `BatchQueue.learned` or `fail`."""

    @property
    def id(self) -> int:
        """Names it in the answer."""

    @property
    def pool(self) -> str:
        """Whose servers know it."""

    @property
    def model(self) -> str:
        """The model as the pool knows it."""

    @property
    def version(self) -> str:
        """The model's version; empty lets the server choose."""

    @property
    def timeout_ns(self) -> int:
        """After this nobody waits for it."""

@final
class BatchServer:
    """A KServe v2 gRPC server in front of a queue, with threads of its own: a plain batcher without a decision.

    Shape: `address` is `host:port`, port 0 for any; `admitted` maps what clients send as `x-forebay-internal-id`
    (32 hex digits) to the pool that serves them.
    Units: `max_message_bytes` for one request; `default_timeout_ms` for requests that bring no deadline.
    Raises: ValueError for an address or id that is none; OSError when the address cannot be had.
    """

    def __new__(
        cls,
        queue: BatchQueue,
        address: str,
        admitted: Mapping[str, str],
        *,
        max_message_bytes: int = 67_108_864,
        default_timeout_ms: int = 60_000,
    ) -> BatchServer: ...
    @property
    def address(self) -> str:
        """`host:port` that it listens on."""

    def stop(self) -> None:
        """Take no new connections, wait at most 5 s for open requests, and end. Safe to call twice."""
