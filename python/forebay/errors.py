"""The tree of forebay's own Python errors, one stable slug each.

Owns: the classes below. Must not know: who raises them. On failure: these are how failure is said.

    ForebayError
    ├── PolicyError            policy_invalid       a policy is refused whole; `findings` says every reason
    ├── PolicyUnreadable       policy_unreadable    the policy file cannot be read at all
    ├── RequestUnreadable      request_unreadable   the request given to `forebay explain` cannot be used
    ├── RenderError            render_refused       a policy that Envoy's configuration cannot express
    ├── RolloutError           rollout_failed       a configuration file could not be replaced
    ├── ServeError             serve_failed         a gateway cannot start: an address is taken or malformed
    └── ObserveError           envoy_unobservable   Envoy's admin port did not answer as expected
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forebay.policy.finding import Finding

__all__ = [
    "ForebayError",
    "ObserveError",
    "PolicyError",
    "PolicyUnreadable",
    "RenderError",
    "RequestUnreadable",
    "RolloutError",
    "ServeError",
]


class ForebayError(Exception):
    """Everything that forebay raises on purpose; `slug` is stable and may be matched on."""

    slug: ClassVar[str] = "forebay"


class PolicyError(ForebayError):
    """A policy that does not validate: it is refused whole, and every finding is given, not only the first."""

    slug: ClassVar[str] = "policy_invalid"

    def __init__(self, source: str, findings: Sequence[Finding]) -> None:
        self.source = source
        self.findings = tuple(findings)
        super().__init__("\n".join(finding.text(source) for finding in self.findings))


class PolicyUnreadable(ForebayError):
    """The policy file is missing, a folder, forbidden, or larger than the loader's bound."""

    slug: ClassVar[str] = "policy_unreadable"


class RequestUnreadable(ForebayError):
    """The request file that should be explained is missing or is no JSON object."""

    slug: ClassVar[str] = "request_unreadable"


class RenderError(ForebayError):
    """The policy asks for something that Envoy's configuration cannot express."""

    slug: ClassVar[str] = "render_refused"


class RolloutError(ForebayError):
    """A configuration file could not be replaced; what Envoy has read before stays in force."""

    slug: ClassVar[str] = "rollout_failed"


class ServeError(ForebayError):
    """A gateway cannot start, because an address is taken, malformed or not this machine's."""

    slug: ClassVar[str] = "serve_failed"


class ObserveError(ForebayError):
    """Envoy's admin port is away, slow, or answers something that is not its cluster list."""

    slug: ClassVar[str] = "envoy_unobservable"
