"""One thing to say about a policy: where, how bad, and what to do.

Owns: the record and its one-line form. Must not know: who found it. On failure: cannot fail.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["Finding", "Severity"]

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding about one field of a policy.

    Shape: `path` is the field, such as `models[2].pools[0]`, empty for the whole file; `line` and `column` count
    from 1 and are 0 where the source has none.
    """

    severity: Severity
    slug: str
    path: str
    message: str
    line: int = 0
    column: int = 0

    def text(self, source: str) -> str:
        """Give the line that compilers print: `policy.yaml:12: error[unknown_field] models[0].nme: ...`."""
        place = f"{source}:{self.line}" if self.line else source
        field = f" {self.path}" if self.path else ""
        return f"{place}: {self.severity}[{self.slug}]{field}: {self.message}"

    def as_json(self) -> dict[str, str | int]:
        """Give the finding as a JSON object with the fields' own names."""
        return dict(asdict(self))
