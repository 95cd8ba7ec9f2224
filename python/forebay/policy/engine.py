"""The questions that one may ask of a policy: is it right, and what would it do with this request.

Owns: this package's one doorway to `forebay._core`. Must not know: how an answer is printed.
On failure: closed; a core that is not built is an ImportError when a question is asked, not when a file is loaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from forebay.errors import PolicyError
from forebay.policy.finding import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from forebay.policy.load import LoadedPolicy

__all__ = ["ExplainedRequest", "check", "explain"]


@dataclass(frozen=True, slots=True)
class ExplainedRequest:
    """A request as `explain` takes it: header names in lower case; `as_key_id` decides as that key."""

    path: str
    body: bytes
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    as_key_id: str | None = field(default=None)


def check(policy: LoadedPolicy) -> list[Finding]:
    """Hold a loaded policy against every rule.

    Returns: errors and warnings with their lines, in the order of the file. Without an error it can be put into force.
    Cost: linear in the policy; the GIL is released.
    """
    from forebay._core import check_policy  # noqa: PLC0415 - see the head

    return _with_lines(policy, check_policy(policy.message_bytes))


def explain(policy: LoadedPolicy, request: ExplainedRequest) -> dict[str, Any]:
    """Decide on one request without a network, and tell how.

    Returns: `stages` (each `stage`, `ns`, `note`), `record` and `result` (`action` is `answer`, `forward` or `stage`).
    Raises: PolicyError when the policy does not validate.
    Cost: builds an engine for this one request; the GIL is released.
    """
    from forebay._core import PolicyRefused  # noqa: PLC0415 - see the head
    from forebay._core import explain as explain_in_core  # noqa: PLC0415

    headers = list(request.headers)
    try:
        told = explain_in_core(
            policy.message_bytes, request.method, request.path, headers, request.body, request.as_key_id
        )
    except PolicyRefused as error:
        raise PolicyError(policy.source, _with_lines(policy, getattr(error, "findings", []))) from error
    return cast("dict[str, Any]", json.loads(told))


def _with_lines(policy: LoadedPolicy, rows: Iterable[tuple[str, str, str, str]]) -> list[Finding]:
    findings = [
        Finding(cast("Severity", severity), slug, path, message, policy.line_of(path))
        for severity, slug, path, message in rows
    ]
    return sorted(findings, key=lambda finding: finding.line)
