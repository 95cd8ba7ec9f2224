"""Owns the Python stage of the bench: it names the model that was asked for, so that only the way to it is measured.

Must not know who calls it.
On failure: not applicable.
"""

from collections.abc import Sequence
from typing import Any


def same_model(requests: Sequence[Any]) -> list[str]:
    """The model that each request named."""
    return [request.model for request in requests]
