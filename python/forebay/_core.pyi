"""forebay's core: the parts that decide, as classes that anyone can use alone.

Owns: the types and the documentation of the compiled extension `forebay._core`; stubtest holds it against the build.
Must not know: how a part works inside. On failure: one tree of exceptions, drawn below; a decision never raises.

    Exception
    ├── ForebayError             base of what is raised on purpose by the engine and the servers
    │   ├── PolicyRefused        a policy did not validate; `findings` has every reason
    │   ├── LimitExceeded        a limit has no room; nothing was taken
    │   ├── GatewayError         the servers could not be started
    │   ├── BatchRefused         a request does not fit its batch
    │   └── AnswerRefused        an answer is not kept
    ├── ValueError               an argument that can never be right, such as a key of another length
    └── OverflowError            a number that does not fit, such as a negative amount

Bytes, scalars and frozen handles cross this seam. Every class is safe to share between threads. `now_ns` is always a
monotonic count of nanoseconds, such as `time.monotonic_ns()`, and the same clock in every call on one object.
"""

from collections.abc import Buffer, Mapping, Sequence
from typing import Final, Literal, TypeAlias, final

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
    "CachedAnswer",
    "Decision",
    "Engine",
    "ExactCache",
    "ForebayError",
    "Gateway",
    "GatewayError",
    "Held",
    "LimitExceeded",
    "LimitSpec",
    "Limiter",
    "LimiterStats",
    "ModelShape",
    "PolicyRefused",
    "ReadyBatch",
    "Remaining",
    "Session",
    "SseReader",
    "StageBatch",
    "StageRequest",
    "__version__",
    "build_info",
    "check_policy",
    "explain",
]
