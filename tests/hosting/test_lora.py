"""Adapters on one base: each token through its own, the same numbers as PEFT's."""

import shutil
from pathlib import Path

import pytest
import torch

from preftune.errors import ModelError
from preftune.files import read_json, write_json
from preftune.hosting.lora import Adapter, NotPlainError, load_plain_adapter
from preftune.hosting.plan import plan_of
from preftune.hosting.shelves import Shelves
from preftune.hosting.stream import Stream, stream_of
from preftune.models.load import load_policy

PROMPT = (5, 80, 81, 82, 9)


@pytest.fixture(scope="module")
def stream(model_folder: Path) -> Stream:
    found, why = stream_of(load_policy(model_folder))
    assert found is not None, why
    return found


@pytest.fixture(scope="module")
def adapters(stream: Stream, adapter_folders: list[Path]) -> list[Adapter]:
    return [load_plain_adapter(stream.model, folder, "") for folder in adapter_folders]


def alone(folder: Path, ids: tuple[int, ...]) -> torch.Tensor:
    """What PEFT's own model gives after the last of these tokens."""
    with torch.no_grad():
        logits: torch.Tensor = load_policy(folder)(torch.tensor([ids])).logits[0, -1]
    return logits


def test_each_row_of_one_forward_goes_through_its_own_adapter(
    stream: Stream, adapters: list[Adapter], model_folder: Path, adapter_folders: list[Path]
) -> None:
    owners = [adapters[0], None, adapters[1], adapters[0]]
    folders = [adapter_folders[0], model_folder, adapter_folders[1], adapter_folders[0]]
    readings = [stream.reading(PROMPT, adapter=owner) for owner in owners]
    plan = plan_of(stream.sizes, [], [(reading, len(PROMPT)) for reading in readings])
    first = stream.forward(plan, [])
    shelves: Shelves[int] = Shelves(stream.shape)
    for row, reading in enumerate(readings):
        shelves.put(row, reading.held, len(PROMPT))
    second = stream.forward(plan_of(stream.sizes, shelves.shelves(), []), [7, 8, 9, 10], owners)
    for row, folder in enumerate(folders):
        for got, ids in ((first[row], PROMPT), (second[row], (*PROMPT, 7 + row))):
            assert got.tolist() == pytest.approx(alone(folder, ids).tolist(), abs=3e-5)
    assert (first[0] - first[1]).abs().max() > 0.1  # the adapter says something else


def test_one_adapter_for_all_tokens(
    stream: Stream, adapters: list[Adapter], adapter_folders: list[Path]
) -> None:
    reading = stream.reading(PROMPT, adapter=adapters[1])
    got = stream.forward(plan_of(stream.sizes, [], [(reading, len(PROMPT))]), [])[0]
    expected = alone(adapter_folders[1], PROMPT)
    assert got.tolist() == pytest.approx(expected.tolist(), abs=3e-5)


def changed(folder: Path, to: Path, **fields: object) -> Path:
    shutil.copytree(folder, to)
    write_json(to / "adapter_config.json", read_json(to / "adapter_config.json") | fields)
    return to


@pytest.mark.parametrize(
    "fields",
    [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"peft_type": "IA3"}],
)
def test_what_is_more_than_a_product_is_not_taken(
    stream: Stream, adapter_folders: list[Path], tmp_path: Path, fields: dict[str, object]
) -> None:
    with pytest.raises(NotPlainError, match=next(iter(fields))):
        load_plain_adapter(stream.model, changed(adapter_folders[0], tmp_path / "a", **fields), "")


def test_rank_stabilised_scale(
    stream: Stream, adapters: list[Adapter], adapter_folders: list[Path], tmp_path: Path
) -> None:
    found = load_plain_adapter(
        stream.model, changed(adapter_folders[0], tmp_path / "a", use_rslora=True), ""
    )
    name, (_, b) = next(iter(found.parts.items()))
    # alpha / sqrt(4) instead of alpha / 4
    assert torch.allclose(b, 2 * adapters[0].parts[name][1])


def test_an_adapter_of_another_base_is_refused(stream: Stream, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA", "r": 1, "lora_alpha": 1})
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{name}.lora_A.weight": torch.zeros(1, 3),
        f"{name}.lora_B.weight": torch.ones(3, 1),
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="q_proj does not fit"):
        load_plain_adapter(stream.model, tmp_path, "")
