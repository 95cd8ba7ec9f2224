"""Sends the batches that the gateway assembles to Triton, and learns what its models take."""

from __future__ import annotations

from forebay.batching.channel import ChannelSettings, ClientTls, PoolServers
from forebay.batching.seam import BatchQueue, ModelShape, ReadyBatch
from forebay.batching.sender import Sender
from forebay.batching.shape import LearnedModel, learned_model
from forebay.batching.stats import SenderStats

__all__ = [
    "BatchQueue",
    "ChannelSettings",
    "ClientTls",
    "LearnedModel",
    "ModelShape",
    "PoolServers",
    "ReadyBatch",
    "Sender",
    "SenderStats",
    "learned_model",
]
