"""The policy's words about model servers, as the sender takes them."""

from __future__ import annotations

from pathlib import Path

from forebay.batching import ClientTls, ModelRules, PoolServers, RaggedInput, RaggedOutput
from forebay.gateway.tensors import QueueBounds, queue_bounds, serving
from forebay.policy import load_text

POOLS = """
pools:
  - {name: fleet, protocol: OPENAI, endpoints: [{address: "127.0.0.1:1"}]}
  - name: triton
    protocol: KSERVE_GRPC
    endpoints: [{address: "10.0.0.1:8001"}, {address: "10.0.0.2:8001"}]
    tls: {sni: triton.internal, ca_file: CA}
    queue: {max_rows: 64, timeout_ms: 500}
"""
MODELS = """
models:
  - {name: chat, max_output_tokens: 16, capabilities: [CHAT], pools: [fleet]}
  - name: encoder
    upstream_name: encoder-v2
    capabilities: [TENSORS]
    pools: [triton]
    tensors:
      ragged_inputs: [{name: ids, dim: 1, pad_value: 7}]
      ragged_outputs: [{name: tags, dim: 0}]
      mask_input: mask
      max_batch_rows: 32
      instances: 2
      max_padded_tokens: 4096
      preferred_rows: [8, 32]
      max_length_classes: 4
      retry: NEVER
  - {name: plain, capabilities: [TENSORS], pools: [triton]}
"""


def test_pools_and_models_of_triton_are_taken_and_no_others(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("", encoding="utf-8")
    found = serving(load_text(f"name: t{POOLS.replace('CA', str(authority))}{MODELS}").message())
    tls = ClientTls("triton.internal", authority)
    assert found.pools == {"triton": PoolServers(("10.0.0.1:8001", "10.0.0.2:8001"), tls)}
    assert found.rules == {
        ("triton", "encoder-v2"): ModelRules(
            ragged_inputs=(RaggedInput("ids", 1, 7.0),),
            ragged_outputs=(RaggedOutput("tags", 0),),
            mask_input="mask",
            max_batch_rows=32,
            instances=2,
            max_padded_tokens=4096,
            preferred_rows=(8, 32),
            max_length_classes=4,
            resends=0,
        ),
        ("triton", "plain"): ModelRules(),
    }


def test_a_queue_is_bounded_by_what_is_said_and_else_by_the_defaults(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("", encoding="utf-8")
    bounds = queue_bounds(load_text(f"name: t{POOLS.replace('CA', str(authority))}{MODELS}").message())
    assert bounds == {"triton": QueueBounds(max_rows=64, timeout_ms=500)}
