"""Fixtures of the tests with a real Envoy.

Owns: where the modules beside the tests are found, and which fixtures they share. Must not know: any test.
On failure: the tests of this folder cannot be collected.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from chain import chain, session_site, sites

__all__ = ["chain", "session_site", "sites"]
