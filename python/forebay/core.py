"""The parts of the core that anyone can use alone, without Envoy and without a gateway.

Owns: the list of what is public. Must not know: anything else; all of it is documented in the extension's stub.
On failure: an extension that is not built is an ImportError here.
"""

from forebay._core import (
    AnswerCollector,
    AnswerLabels,
    AnswerRefused,
    BatchAssembler,
    BatchRefused,
    CacheKeys,
    Decision,
    Engine,
    ExactCache,
    ForebayError,
    Limiter,
    LimitExceeded,
    LimitSpec,
    ModelShape,
    PolicyRefused,
    SseReader,
    TokenCounter,
)

__all__ = [
    "AnswerCollector",
    "AnswerLabels",
    "AnswerRefused",
    "BatchAssembler",
    "BatchRefused",
    "CacheKeys",
    "Decision",
    "Engine",
    "ExactCache",
    "ForebayError",
    "LimitExceeded",
    "LimitSpec",
    "Limiter",
    "ModelShape",
    "PolicyRefused",
    "SseReader",
    "TokenCounter",
]
