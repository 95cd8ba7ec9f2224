"""This package's one doorway to `forebay._core`."""

from forebay._core import Engine, Gateway, GatewayError, PolicyRefused, StageBatch, StageRequest

__all__ = ["Engine", "Gateway", "GatewayError", "PolicyRefused", "StageBatch", "StageRequest"]
