"""Model repositories as text; that Triton takes them is tested beside Triton."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.lab.model_repository import MODELS, CostModel, ModelChoices, write_repository


def test_every_model_has_its_name_its_code_and_no_gap(tmp_path: Path) -> None:
    write_repository(tmp_path, MODELS, tmp_path)
    for name in MODELS:
        config = (tmp_path / name / "config.pbtxt").read_text()
        assert f'name: "{name}"\n' in config
        assert "$" not in config
        assert (tmp_path / name / "1" / "model.py").exists()
    assert (tmp_path / "encoder" / "1" / "wordpiece.py").exists()
    with pytest.raises(ValueError, match="no such model: gpt; known are minilm"):
        write_repository(tmp_path, ("cost", "gpt"), tmp_path)


def test_only_controls_are_behind_tritons_own_batcher(tmp_path: Path) -> None:
    write_repository(tmp_path / "default", MODELS, tmp_path)
    batched = {
        name for name in MODELS if "dynamic_batching" in (tmp_path / "default" / name / "config.pbtxt").read_text()
    }
    assert batched == {"queued_minilm", "queued_cost", "ragged_cost"}
    choices = ModelChoices(CostModel(1000, 500, queue_delay_us=7, instances=2), control_queue_delay_us=9)
    write_repository(tmp_path / "chosen", MODELS, tmp_path, choices)
    own = (tmp_path / "chosen" / "cost" / "config.pbtxt").read_text()
    assert "max_queue_delay_microseconds: 7 }" in own
    assert "count: 2" in own
    ragged = (tmp_path / "chosen" / "ragged_cost" / "config.pbtxt").read_text()
    assert "max_queue_delay_microseconds: 9 }" in ragged
    assert "allow_ragged_batch: true" in ragged
    assert "allow_ragged_batch" not in own
