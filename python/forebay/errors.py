"""The tree of forebay's own Python errors, one stable slug each.

Owns: the classes below. Must not know: who raises them. On failure: these are how failure is said.

    ForebayError
    ├── PolicyError            policy_invalid       a policy is refused whole; `findings` says every reason
    ├── PolicyUnreadable       policy_unreadable    the policy file cannot be read at all
    ├── RequestUnreadable      request_unreadable   the request given to `forebay explain` cannot be used
    ├── RenderError            render_refused       a policy that Envoy's configuration cannot express
    ├── RolloutError           rollout_failed       a configuration file could not be replaced
    ├── ServeError             serve_failed         a gateway cannot start: an address is taken or malformed
    ├── ObserveError           envoy_unobservable   Envoy's admin port did not answer as expected
    ├── JournalUnreadable      journal_unreadable   the journal's folder or a segment in it cannot be read
    ├── QueryRefused           query_refused        `forebay ledger` was asked for something that it cannot answer
    └── StoreError             store_failed         the ledger's file said something that is none of the following
        ├── StoreLocked        store_locked         another program held the file for longer than the deadline
        ├── StoreInUse         store_in_use         another gateway serves this folder
        ├── StoreCorrupt       store_corrupt        the file is damaged, or no ledger; it is left as it is
        ├── StoreTooNew        store_too_new        a later forebay wrote the file; it is left as it is
        ├── StoreFull          store_full           no space is left
        ├── StoreUnwritable    store_unwritable     the file or its folder cannot be written, or the disk fails
        ├── StoreMissing       store_missing        there is no ledger in this folder, or nothing in it yet
        └── StoreClosed        store_closed         the store was used after it was closed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forebay.policy.finding import Finding

__all__ = [
    "ForebayError",
    "JournalUnreadable",
    "ObserveError",
    "PolicyError",
    "PolicyUnreadable",
    "QueryRefused",
    "RenderError",
    "RequestUnreadable",
    "RolloutError",
    "ServeError",
    "StoreClosed",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreInUse",
    "StoreLocked",
    "StoreMissing",
    "StoreTooNew",
    "StoreUnwritable",
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


class JournalUnreadable(ForebayError):
    """The journal's folder or one of its segments cannot be read; what it holds is read once that is mended."""

    slug: ClassVar[str] = "journal_unreadable"


class QueryRefused(ForebayError):
    """A question to the ledger names a column, a time or a filter that there is not."""

    slug: ClassVar[str] = "query_refused"


class StoreError(ForebayError):
    """The store has failed, and has changed nothing; the same call may be tried again."""

    slug: ClassVar[str] = "store_failed"


class StoreLocked(StoreError):
    """Another program, such as a SQLite shell, held the file for longer than the deadline."""

    slug: ClassVar[str] = "store_locked"


class StoreInUse(StoreError):
    """Another gateway serves the same folder."""

    slug: ClassVar[str] = "store_in_use"


class StoreCorrupt(StoreError):
    """The file is damaged, or is no ledger. It is left as it is, for a person to look at."""

    slug: ClassVar[str] = "store_corrupt"


class StoreTooNew(StoreError):
    """A later version of forebay wrote the file. It is left as it is."""

    slug: ClassVar[str] = "store_too_new"


class StoreFull(StoreError):
    """No space is left on the disk."""

    slug: ClassVar[str] = "store_full"


class StoreUnwritable(StoreError):
    """The file or its folder cannot be opened or written, or the disk reports an error."""

    slug: ClassVar[str] = "store_unwritable"


class StoreMissing(StoreError):
    """There is no ledger in the folder, or nothing was written to it yet."""

    slug: ClassVar[str] = "store_missing"


class StoreClosed(StoreError):
    """The store was used after it was closed."""

    slug: ClassVar[str] = "store_closed"
