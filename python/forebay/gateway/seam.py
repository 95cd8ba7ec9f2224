"""The one place of this package that imports the extension.

Owns nothing. Must not know what the classes do. On failure: ImportError, as the package cannot work without it.
"""

from forebay._core import Engine, Gateway, GatewayError, PolicyRefused, StageBatch, StageRequest

__all__ = ["Engine", "Gateway", "GatewayError", "PolicyRefused", "StageBatch", "StageRequest"]
