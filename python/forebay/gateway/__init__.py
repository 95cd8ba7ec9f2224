"""Gateway: one running process. It starts the Rust servers, swaps the policy, and answers operators.

Owns: the life of the servers and of what runs beside them (Python stages, batches to Triton, the admin port).
Must not know: how Envoy is configured. On failure: closed; what cannot be started stops all of it.
"""

from forebay.gateway.admin import AdminServer
from forebay.gateway.process import GatewayProcess
from forebay.gateway.stages import StageRunner
from forebay.gateway.watch import FileWatch

__all__ = ["AdminServer", "FileWatch", "GatewayProcess", "StageRunner"]
