"""`forebay demo` and `forebay up`: a whole site on this machine, tried or left running.

Owns: the demo's policy and keys, and what is printed around it. Must not know: how any part works.
On failure: a claim that did not hold is printed and the status is 1.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from forebay.app.site import Site, running_site
from forebay.lab.demo import DemoEndpoints, LedgerSource, ModelPrice, run_demo
from forebay.lab.demo_chat import ChatTarget
from forebay.lab.demo_report import report
from forebay.lab.demo_stream import StreamTarget
from forebay.lab.demo_tensors import TensorTarget

if TYPE_CHECKING:
    import argparse

__all__ = ["demo", "up"]

POLICY = Path(__file__).parent.parent / "lab" / "demo-policy.yaml"
# Public by purpose: the demo's policy holds their digests.
KEYS = {"acme": "fb-demo-acme", "bistro": "fb-demo-bistro", "trial": "fb-demo-trial"}
MODELS = {"plain": "small-chat", "long": "large-chat", "tools": "large-chat"}
# The plan of the demo asks for more than the free tier may have, in one minute.
UP_SETTINGS = (
    "gateway.ext_proc_address=127.0.0.1:9300",
    "gateway.admin_address=127.0.0.1:9301",
    "gateway.batch_address=127.0.0.1:9302",
    "envoy.listen_address=127.0.0.1:10000",
    "envoy.admin_address=127.0.0.1:9901",
)


def demo(arguments: argparse.Namespace) -> int:
    """Send realistic requests through all of it and print what happened; 1 if a claim did not hold."""
    _say("starting two simulated fleets, a real Triton, the gateway and a real Envoy ...")
    with ExitStack() as stack:
        site = stack.enter_context(running_site(POLICY, _triton_venv()))
        result = run_demo(_endpoints(site))
    print(result.json() if arguments.json else report(result))
    return 1 if result.failures else 0


def up(arguments: argparse.Namespace) -> int:
    """Keep a site running on its usual ports until it is interrupted."""
    del arguments
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    with running_site(POLICY, _triton_venv(), UP_SETTINGS) as site:
        print(_curl_lines(site), flush=True)
        stop.wait()
    return 0


def _curl_lines(site: Site) -> str:
    key = KEYS["acme"]
    body = '{"model":"small-chat","temperature":0,"messages":[{"role":"user","content":"What is a forebay?"}]}'
    written = '{"model":"writer","max_tokens":40,"stream":true,"messages":[{"role":"user","content":"Tell me"}]}'
    texts = '{"model":"minilm","input":["What is a forebay?","Where does the water wait?"]}'
    ids = '{"inputs":[{"name":"input_ids","shape":[1,4],"datatype":"INT64","data":[101,7592,2088,102]}]}'
    send = f"-H 'authorization: Bearer {key}' -H 'content-type: application/json'"
    return "\n".join(
        [
            f"forebay runs at {site.base_url}; the policy is {POLICY}",
            "try it, twice, and see `x-forebay-cache` change from miss to hit:",
            "",
            f"  curl -si {site.base_url}/v1/chat/completions {send} \\",
            f"    -d '{body}'",
            "",
            "vectors of a real MiniLM in Triton, by OpenAI's protocol and by KServe's, batched with whoever asks too:",
            "",
            f"  curl -s {site.base_url}/v1/embeddings {send} \\",
            f"    -d '{texts}'",
            "",
            f"  curl -s {site.base_url}/v2/models/minilm/infer {send} \\",
            f"    -d '{ids}'",
            "",
            "a text model in Triton, as a chat, streamed:",
            "",
            f"  curl -sN {site.base_url}/v1/chat/completions {send} \\",
            f"    -d '{written}'",
            "",
            "what it may use, and what was decided last:",
            "",
            f"  curl -s {site.base_url}/v1/models -H 'authorization: Bearer {key}'",
            "",
            f"  curl -s '{site.admin_url}/records?limit=2'",
            "",
            "what it cost so far, to the nano-USD:",
            "",
            f"  forebay ledger {site.ledger} --by tenant,model",
            "",
            "press Ctrl-C to stop",
        ]
    )


def _endpoints(site: Site) -> DemoEndpoints:
    message = site.policy.message()
    prices = {
        model.name: ModelPrice(
            model.prices.prompt_nanousd_per_million_tokens, model.prices.output_nanousd_per_million_tokens
        )
        for model in message.models
        if model.HasField("prices")
    }
    tensors = TensorTarget(
        triton_grpc=site.triton,
        gateway_grpc=message.envoy.listen_address,
        base_url=site.base_url,
        admin_url=site.admin_url,
        vocabulary=site.triton_vocabulary,
        key=KEYS["acme"],
    )
    return DemoEndpoints(
        chat=ChatTarget(base_url=site.base_url, keys=KEYS, models=MODELS),
        fleets=site.fleets,
        admin_url=site.admin_url,
        prices=prices,
        tensors=tensors,
        stream=StreamTarget(site.triton, site.base_url, key=KEYS["acme"], leaving_key=KEYS["bistro"]),
        ledger=LedgerSource(site.ledger, "tenant-day"),
    )


def _triton_venv() -> Path:
    """Where `python -m forebay.lab.triton install` put Triton."""
    return Path(os.environ.get("FOREBAY_TRITON_VENV", ".venv-triton"))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
