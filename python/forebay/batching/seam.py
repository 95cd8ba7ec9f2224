"""The one place of this package that imports the extension.

Owns nothing. Must not know what the classes do. On failure: ImportError, as the package cannot work without it.
"""

from __future__ import annotations

from forebay._core import BatchQueue, LaneSettings, ModelShape, UnknownModel

__all__ = ["BatchQueue", "LaneSettings", "ModelShape", "UnknownModel"]
