"""Policy: read a file, say every error with its line, and hand on the one message that everything else is made from.

Owns: YAML to message, and the questions that one may ask of a policy (`check`, `explain`).
Must not know: gRPC, Envoy, threads. On failure: closed; a policy with one error is refused whole.
"""

from forebay.policy.finding import Finding, Severity
from forebay.policy.load import LoadedPolicy, load, load_text
from forebay.policy.override import override

__all__ = ["Finding", "LoadedPolicy", "Severity", "load", "load_text", "override"]
