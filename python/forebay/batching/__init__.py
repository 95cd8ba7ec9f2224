"""Says which servers batches go to, whether they are ready, and what their models take."""

from __future__ import annotations

from forebay.batching.channel import ChannelSettings, ClientTls, Link, PoolServers
from forebay.batching.endpoints import Endpoint
from forebay.batching.merge import Mismatch, ServedModel, served_model
from forebay.batching.rules import ModelRules, RaggedInput, RaggedOutput
from forebay.batching.seam import BatchQueue, LaneSettings, ModelShape, UnknownModel
from forebay.batching.sender import Sender, SenderSettings, Serving
from forebay.batching.shape import ModelDeclared, declared_model
from forebay.batching.stats import SenderStats
from forebay.batching.triton import ModelCounts

__all__ = [
    "BatchQueue",
    "ChannelSettings",
    "ClientTls",
    "Endpoint",
    "LaneSettings",
    "Link",
    "Mismatch",
    "ModelCounts",
    "ModelDeclared",
    "ModelRules",
    "ModelShape",
    "PoolServers",
    "RaggedInput",
    "RaggedOutput",
    "Sender",
    "SenderSettings",
    "SenderStats",
    "ServedModel",
    "Serving",
    "UnknownModel",
    "declared_model",
    "served_model",
]
