"""The Triton process and its installation: what goes wrong is said, and nothing stays behind."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from forebay.lab.demo_stream import StreamTarget, write
from forebay.lab.demo_tensor_checks import MAX_VECTOR_DIFFERENCE, stream_checks, tensor_checks
from forebay.lab.demo_tensors import BY_FOREBAY, TensorTarget, compare
from forebay.lab.fleet import fleet_in_thread
from forebay.lab.fleet_spec import FleetSpec, Latency
from forebay.lab.model_repository import write_repository
from forebay.lab.triton import TritonError, TritonOptions, TritonServer, main, running_triton
from forebay.lab.triton_install import PACKAGES, TritonInstallError, choose_interpreter, find_install, install

VENV = Path(os.environ.get("FOREBAY_TRITON_VENV", Path(__file__).parents[2] / ".venv-triton"))


def test_installing_again_finds_what_is_there() -> None:
    found = install(VENV)
    assert found == find_install(VENV)
    assert (found.minilm / "model.safetensors").stat().st_size > 80_000_000


def test_what_is_not_installed_is_said_with_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TritonInstallError, match=r"forebay\.lab\.triton install"):
        find_install(tmp_path)
    assert main(["serve", "--venv", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: no Triton in")


def test_a_folder_that_is_not_an_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not delete")
    with pytest.raises(TritonInstallError, match="not a virtual environment"):
        install(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_without_a_fitting_interpreter_the_message_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python3"))
    with pytest.raises(TritonInstallError, match=r"3\.12 or 3\.11 or 3\.10.*none on PATH"):
        choose_interpreter()


def test_a_model_that_cannot_load_ends_the_start_with_the_log(tmp_path: Path) -> None:
    where = find_install(VENV)
    repository = tmp_path / "models"
    write_repository(repository, ("identity",), where.minilm)
    (repository / "identity" / "1" / "model.py").write_text("raise RuntimeError('a broken model')\n")
    options = TritonOptions(where, repository, tmp_path / "triton.log")
    with pytest.raises(TritonError, match="a broken model"):
        TritonServer.start(options)
    with pytest.raises(ValueError, match="no such model: bert"):
        write_repository(repository, ("bert",), where.minilm)


def test_a_stopped_server_is_gone_and_stopping_twice_is_fine() -> None:
    with running_triton(VENV, ("identity",)) as server:
        pid = server.pid
        os.kill(pid, 0)
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_demo_tells_ways_apart_and_reports_a_dead_gateway() -> None:
    models = ("minilm", "queued_minilm", "cost", "queued_cost")
    spec = FleetSpec(models=("minilm",), latency=Latency(time_scale=0.0))
    with running_triton(VENV, models) as server, fleet_in_thread(spec) as fleet:
        address = server.grpc_address
        # Triton itself in place of the gateway's gRPC, and a fleet that invents its vectors in place of OpenAI's.
        target = TensorTarget(
            address, address, fleet.base_url, "http://127.0.0.1:1", find_install(VENV).minilm / "vocab.txt", key="k",
            sentences=12, clients=4, costly_sentences=24, costly_clients=4,
        )  # fmt: skip
        result = asyncio.run(compare(target))
        assert result.error == ""
        assert result.differences[BY_FOREBAY] <= MAX_VECTOR_DIFFERENCE
        assert max(result.differences.values()) > 1e-2
        assert [done.rows for done in result.passes] == [12, 12, 12, 12]
        assert [done.rows for done in result.costly] == [24, 24]
        assert result.costly[1].mean_batch_rows == 1.0
        assert result.wrong_sums == 0
        held = [check.held for check in tensor_checks(result)]
        assert held == [False, True, False]
        refused = asyncio.run(compare(replace(target, gateway_grpc=f"127.0.0.1:{server.ports.metrics}")))
        assert "UNAVAILABLE" in refused.error
        assert len(refused.passes) == 2
        with fleet_in_thread(replace(spec, embedding_dims=8)) as narrow:
            narrowed = asyncio.run(compare(replace(target, base_url=narrow.base_url)))
        assert narrowed.error == "the gateway answered with (12, 8), and Triton with (12, 384)"
    assert all("==" in package for package in PACKAGES)


def test_the_demo_writes_nothing_without_a_gateway_and_says_why() -> None:
    with running_triton(VENV, ("writer",)) as server, fleet_in_thread(FleetSpec(models=("other",))) as fleet:
        result = asyncio.run(write(StreamTarget(server.grpc_address, fleet.base_url, key="k", leaving_key="k")))
    assert "writer" in result.error
    assert [check.held for check in stream_checks(result, None, "acme")] == [False, False]
