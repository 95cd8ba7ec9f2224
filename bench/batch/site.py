"""Owns what runs: one Triton with every model, a gateway with batching, one without, and an Envoy before each.

Must not know what is sent through them.
On failure: what does not get ready stops the run with the end of its log; everything started is ended.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc

from bench.batch.cost import COST
from bench.batch.generator import Generator, Group
from bench.batch.messages import encode
from bench.batch.policy import batching_policy, forwarding_policy, key_of
from bench.load.cpu import cpu_ns
from bench.load.policy import PolicyFile
from bench.load.process import BenchError, Child, fetch
from bench.load.tools import Tools, require_release_core
from bench.load.variants import Site as LoadSite
from bench.load.variants import start_envoy
from forebay.lab.model_repository import CostModel, ModelChoices
from forebay.lab.tensor_traffic import token_ids
from forebay.lab.triton import TritonServer, running_triton
from forebay.lab.triton_install import find_install

MODELS = ("cost", "queued_cost", "ragged_cost", "minilm", "queued_minilm")
QUEUE_DELAY_US = 5_000
_RENDER_S = 120
_READY_S = 60.0


@dataclass(frozen=True)
class Gateway:
    """A gateway and the Envoy before it."""

    address: str
    admin: str
    children: dict[str, Child] = field(default_factory=dict)

    def cpu_ns(self) -> dict[str, int]:
        """CPU so far of Envoy and of the gateway."""
        return cpu_ns({role: child.pid for role, child in self.children.items()})

    def metrics(self) -> str:
        """The gateway's metrics page."""
        return fetch(f"http://{self.admin}/metrics")


@dataclass(frozen=True)
class Site:
    """Everything that runs."""

    triton: TritonServer
    forebay: Gateway
    unbatched: Gateway
    generator: Generator
    client: Any
    # MiniLM's words.
    vocabulary: Path

    def triton_counts(self, model: str) -> tuple[int, int, int]:
        """Rows, calls and nanoseconds of computing so far, by Triton's own count; each call counts once."""
        (stats,) = self.client.get_inference_statistics(model).model_stats
        compute_ns = sum(int(batch.compute_infer.ns) for batch in stats.batch_stats)
        return int(stats.inference_count), int(stats.execution_count), compute_ns


@contextmanager
def running_site(tools: Tools, triton_venv: Path, workdir: Path) -> Iterator[Site]:
    """Starts all of it and ends all of it."""
    require_release_core()
    cost = CostModel(call_us=COST.call_ns // 1000, token_ns=COST.token_ns)
    choices = ModelChoices(cost=cost, control_queue_delay_us=QUEUE_DELAY_US, max_batch_rows=COST.max_rows)
    with ExitStack() as stack:
        triton = stack.enter_context(running_triton(triton_venv, MODELS, choices))
        load_site = LoadSite(tools, workdir, 0)
        gateways = []
        for name, write in (("forebay", batching_policy), ("unbatched", forwarding_policy)):
            policy = write(triton.grpc_address, workdir / name)
            gateways.append(_start(name, policy, load_site, stack))
        vocabulary = find_install(triton_venv).minilm / "vocab.txt"
        generator = Generator(tools.bench, workdir)
        client = triton_grpc.InferenceServerClient(triton.grpc_address)
        stack.callback(client.close)
        for gateway in gateways:
            _wait_served(gateway, generator)
        forebay, unbatched = gateways
        yield Site(triton, forebay, unbatched, generator, client, vocabulary)


def _start(name: str, policy: PolicyFile, site: LoadSite, stack: ExitStack) -> Gateway:
    rendered = site.workdir / name / "envoy"
    forebay = [sys.executable, "-m", "forebay.cli"]
    command = [*forebay, "envoy-config", str(policy.path), "--out", str(rendered)]
    render = Child(f"envoy-config-{name}", command, site.workdir)
    stack.callback(render.stop)
    if render.process.wait(timeout=_RENDER_S) != 0:
        raise render.failure("failed")
    serve = [*forebay, "serve", "--policy", str(policy.path), "--envoy-dir", str(rendered)]
    service = Child(f"gateway-{name}", serve, site.workdir)
    stack.callback(service.stop)
    service.ready_line()
    envoy = start_envoy(name, site, rendered / "envoy.yaml", policy.envoy_admin_port)
    stack.callback(envoy.stop)
    children = {"envoy": envoy, "service": service}
    return Gateway(f"127.0.0.1:{policy.listener_port}", f"127.0.0.1:{policy.gateway_admin_port}", children)


def _wait_served(gateway: Gateway, generator: Generator) -> None:
    """Waits until a request is answered: a pool takes requests only once the gateway has seen that Envoy has it."""
    message = encode("cost", {"input_ids": token_ids(0, 0, 4)})
    group = Group(1, np.zeros(1, np.int64), metadata=key_of("usual"))
    deadline_s = time.monotonic() + _READY_S
    while time.monotonic() < deadline_s:
        sent = generator.send(gateway.address, [message], [group], 5.0)
        if (sent.calls["code"] == 0).all():
            return
        time.sleep(0.1)
    raise BenchError(f"`{gateway.address}` answered nothing in {_READY_S:.0f} s: {sent.answers[0].decode()}")
