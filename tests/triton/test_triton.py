"""The Triton process and its installation: what goes wrong is said, and nothing stays behind."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from forebay.lab.demo_tensors import TensorTarget, compare
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


def test_the_demo_compares_vectors_and_reports_a_dead_gateway() -> None:
    sentences = ["How do I freeze my card?", "Where is my order?", "How long do I boil an egg?", "Hi!"]
    with running_triton(VENV, ("minilm",)) as server:
        vocabulary = find_install(VENV).minilm / "vocab.txt"
        target = TensorTarget(server.grpc_address, server.grpc_address, vocabulary)
        result = asyncio.run(compare(sentences, target))
        assert result.error == ""
        assert result.max_abs_difference is not None
        assert result.max_abs_difference <= 1e-5
        assert result.direct is not None
        assert result.direct.mean_batch_rows == 1.0
        refused = asyncio.run(compare(sentences, replace(target, gateway_grpc=f"127.0.0.1:{server.ports.metrics}")))
        assert "UNAVAILABLE" in refused.error
    assert all("==" in package for package in PACKAGES)
