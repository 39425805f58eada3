"""Weights come in one by one, strictly, and go out the same way; under ZeRO-3 no rank ever holds them all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pair_jobs
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, LlavaForConditionalGeneration

from common.errors import UserError
from understanding import assemble
from understanding.export import export_model
from understanding.objective import LanguageSide
from understanding.weights import exported_names

KINDS = ("llama", "qwen2", "qwen3")
TOKENS = (16 // 4) ** 2


def build(shelf: Path, kind: str, *overrides: str) -> LanguageSide:
    return parts(shelf, kind, *overrides)[0]


def parts(shelf: Path, kind: str, *overrides: str) -> tuple[Any, ...]:
    """Language side, tower and processor of the tiny recipe."""
    config = recipe(shelf, kind, *overrides)
    device = torch.device("cpu")
    tower = assemble.assemble_tower(config, device)
    processor = assemble.assemble_processor(config, tower)
    torch.manual_seed(0)
    return assemble.assemble_language_side(config, tower, processor, {}, device), tower, processor


def recipe(shelf: Path, kind: str, *overrides: str) -> Any:
    return tiny.understanding_recipe(
        shelf, shelf / "run", *tuned(kind), "engine.zero_stage=1", *overrides, kind=kind
    )


def tuned(kind: str) -> list[str]:
    return [*tiny.FINE_TUNING, f"model.template={'vicuna_v1' if kind == 'llama' else 'qwen'}"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_is_read_as_transformers_reads_it(shelf: Path, kind: str) -> None:
    side = build(shelf, kind)
    own = AutoModelForCausalLM.from_pretrained(shelf / kind).state_dict()
    rows = side.config.text_config.vocab_size
    for name, tensor in own.items():
        ours = side.llava.state_dict()[name.replace("model.", "model.language_model.", 1)]
        assert torch.equal(ours[: len(tensor)], tensor), name
        if len(ours) > len(tensor):
            assert name in ("model.embed_tokens.weight", "lm_head.weight") and len(ours) == rows
            mean = tensor.float().mean(0)
            torch.testing.assert_close(ours[len(tensor) :], mean.expand(rows - len(tensor), -1))
    assert rows % 64 == 0 and side.config.image_token_id < rows
    tied = side.llava.lm_head.weight is side.llava.get_input_embeddings().weight
    assert tied == (kind == "qwen3")


def test_bfloat16_spares_the_rotary_frequencies(shelf: Path) -> None:
    side = build(shelf, "llama", "engine.precision=bf16")
    assert {parameter.dtype for parameter in side.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in side.buffers()} == {torch.float32}
    whole = AutoModelForCausalLM.from_pretrained(shelf / "llama", dtype=torch.bfloat16)
    assert torch.equal(side.llava.model.language_model.rotary_emb.inv_freq, whole.model.rotary_emb.inv_freq)


def test_what_learns_is_what_the_recipe_says(shelf: Path) -> None:
    def learning(*overrides: str) -> set[str]:
        side = build(shelf, "llama", *overrides)
        return {name.split(".")[1] for name, p in side.llava.named_parameters() if p.requires_grad}

    assert learning("model.train=[projector]") == {"multi_modal_projector"}
    assert learning("model.train=[language_model]") == {"language_model", "weight"}  # lm_head.weight
    assert learning() == {"multi_modal_projector", "language_model", "weight"}


def test_vicunas_files(shelf: Path, tmp_path: Path) -> None:
    """Pickled, in several files with an index, and with frequencies that are computed today."""
    folder = tmp_path / "llama"
    shutil.copytree(shelf / "llama", folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    names = sorted(state)
    files = {name: f"pytorch_model-0000{1 + index % 2}-of-00002.bin" for index, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({name: state[name].half() for name in names if files[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    (folder / "training.bin").write_bytes(b"what else may lie there")
    side = build(shelf, "llama", f"model.language_model.source={folder}")
    for name, tensor in build(shelf, "llama").llava.state_dict().items():
        torch.testing.assert_close(side.llava.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)
    (folder / files[names[0]]).unlink()
    with pytest.raises(UserError, match=r"absent, yet pytorch_model\.bin\.index\.json names it"):
        build(shelf, "llama", f"model.language_model.source={folder}")


def test_fine_tuning_starts_where_pretraining_ended(shelf: Path, tmp_path: Path) -> None:
    side, tower, processor = parts(shelf, "qwen3")
    export_model(tmp_path / "model", side, tower, processor)
    again = build(shelf, "qwen3", f"init_from={tmp_path / 'model'}")
    for name, tensor in side.llava.state_dict().items():
        assert torch.equal(tensor, again.llava.state_dict()[name]), name
    # Also where transformers itself has written the folder, in either of its two ways.
    whole = LlavaForConditionalGeneration.from_pretrained(tmp_path / "model")
    for original in (True, False):
        folder = tmp_path / f"original_{original}"
        whole.save_pretrained(folder, save_original_format=original)
        processor.save_pretrained(folder)
        again = build(shelf, "qwen3", f"init_from={folder}")
        for name, tensor in side.llava.state_dict().items():
            assert torch.equal(tensor, again.llava.state_dict()[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_named_as_the_hub_names_them(shelf: Path, tmp_path: Path, kind: str) -> None:
    side, tower, processor = parts(shelf, kind)
    export_model(tmp_path / "ours", side, tower, processor)
    LlavaForConditionalGeneration.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    # What was read by the hub's names is written back under them.
    assert set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    towers = {name for name in ours if name.startswith("vision_tower.vision_model.")}
    assert towers and set(ours) - towers <= set(exported_names(side.config).values())
    configs = [AutoConfig.from_pretrained(tmp_path / name).to_dict() for name in ("ours", "theirs")]
    assert configs[0] == {**configs[1], "_name_or_path": configs[0].get("_name_or_path")}
    generation = json.loads((tmp_path / "ours" / "generation_config.json").read_text())
    ends = processor.tokenizer.convert_tokens_to_ids(["</s>" if kind == "llama" else "<|im_end|>"])
    assert generation["eos_token_id"] == ends and generation["suppress_tokens"] == [
        side.config.image_token_id
    ]
    assert generation["pad_token_id"] == processor.tokenizer.pad_token_id


def test_an_export_is_what_the_readers_of_hub_folders_expect(shelf: Path, tmp_path: Path) -> None:
    side, tower, processor = parts(shelf, "qwen3")
    export_model(tmp_path, side, tower, processor)

    def stated(name: str) -> dict[str, Any]:
        return json.loads((tmp_path / name).read_text())

    config = stated("config.json")
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["text_config"]["architectures"] == ["Qwen3ForCausalLM"]
    assert config["text_config"]["rope_theta"] == 10000.0
    assert config["vision_config"]["architectures"] == ["SiglipVisionModel"]
    assert config["vision_config"]["vision_use_head"] is False
    assert not any(".head." in name for name in load_file(tmp_path / "model.safetensors"))
    assert stated("preprocessor_config.json")["image_processor_type"].endswith("ImageProcessorFast")
    assert "image_processor" not in stated("processor_config.json")
    assert stated("tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert stated("tokenizer_config.json")["padding_side"] == "left"
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.tokenizer.padding_side == "left" and loaded.chat_template == processor.chat_template
    assert type(loaded.image_processor) is type(processor.image_processor)
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()


def test_a_failed_export_leaves_what_was_there(shelf: Path, tmp_path: Path, monkeypatch: Any) -> None:
    side, tower, processor = parts(shelf, "llama")
    export_model(tmp_path / "model", side, tower, processor)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(processor.image_processor, "save_pretrained", full)
    with pytest.raises(UserError, match=r"model: cannot be written: No space left"):
        export_model(tmp_path / "model", side, tower, processor)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_sources_that_do_not_fit(shelf: Path, tmp_path: Path) -> None:
    def complaint(*overrides: str) -> str:
        with pytest.raises(UserError) as error:
            build(shelf, "llama", *overrides)
        assert "\n" not in str(error.value)
        return str(error.value)

    def damaged(name: str, change: Any, config: dict[str, Any] | None = None) -> str:
        folder = tmp_path / name
        shutil.copytree(shelf / "llama", folder)
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        stated = json.loads((folder / "config.json").read_text()) | (config or {})
        (folder / "config.json").write_text(json.dumps(stated))
        return complaint(f"model.language_model.source={folder}")

    norm = "model.norm.weight"
    assert f"1 weights are missing, the first is {norm}" in damaged("missing", lambda state: state.pop(norm))
    assert "the first is lm_head.weight" in damaged("headless", lambda state: state.pop("lm_head.weight"))
    surplus = damaged("surplus", lambda state: state.update({"model.layers.2.norm": torch.ones(1)}))
    assert "model.layers.2.norm: not part of this architecture" in surplus
    misshapen = damaged("misshapen", lambda state: state.update({norm: torch.ones(17)}))
    assert f"model.safetensors: {norm}: expected shape (16,) by config.json, found (17,)" in misshapen
    rows = damaged("rows", lambda state: state.update({"lm_head.weight": torch.ones(9, 16)}))
    assert "lm_head.weight: expected shape (" in rows

    capped = damaged("capped", lambda state: None, {"final_logit_softcapping": 30.0})
    assert "final_logit_softcapping: LLaVA's class has no such step" in capped
    quantized = damaged("quantized", lambda state: None, {"quantization_config": {"quant_method": "gptq"}})
    assert "quantization_config" in quantized
    assert "model_type" in damaged("unknown", lambda state: None, {"model_type": "nobody"})
    other = "model.language_model.architecture.num_attention_heads=4"
    assert "num_attention_heads: the recipe states 4, the checkpoint has 2" in complaint(other)
    tower = f"model.language_model.source={shelf / 'vqrae'}"
    assert complaint(tower)


def test_a_start_that_does_not_fit(shelf: Path, tmp_path: Path) -> None:
    from common.models.encoder_loading import build_encoder

    side, tower, processor = parts(shelf, "llama")
    export_model(tmp_path / "model", side, tower, processor)
    start = f"init_from={tmp_path / 'model'}"
    torch.manual_seed(7)
    build_encoder(tiny.SIGLIP).save_pretrained(tmp_path / "tower")
    with pytest.raises(UserError, match=r"init_from: was trained on the tower \w{12}, model.tower names"):
        build(shelf, "llama", start, f"model.tower.source={tmp_path / 'tower'}")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace(str(side.config.image_token_id), "7"))
    with pytest.raises(UserError, match=r"image_token_index: <image> is .* the checkpoint has 7"):
        build(shelf, "llama", start)


# --- Two processes


def write_micro_batches(shelf: Path, folder: Path) -> str:
    """Text alone on rank 0 beside an image and padding on rank 1; two images in a row beside nothing to learn."""
    image = json.loads((shelf / "llama.json").read_text())["vocab_size"]  # it comes behind all others
    pictures = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def batch(rows: list[list[int]], learned: list[int], pixels: torch.Tensor) -> dict[str, Any]:
        length = max(map(len, rows))
        places = torch.tensor(learned, dtype=torch.long)
        return {
            "input_ids": torch.tensor([row + [0] * (length - len(row)) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows]),
            "predictors": places,
            "targets": (places * 7) % 300,
            "pixel_values": pixels,
        }

    batches = [
        batch([[5, 6, 7, 8, 9]], [1, 2, 3], pictures[:0]),
        batch([[5, *[image] * TOKENS, 6, 7], [8, 9, 10]], [17, 19], pictures[:1]),
        batch([[11, *[image] * TOKENS, 6, *[image] * TOKENS, 12, 13]], [34, 35], pictures[1:]),
        batch([[5, 6]], [], pictures[:0]),
    ]
    torch.save(batches, folder / "batches.pt")
    return str(folder / "batches.pt")


CASES = {
    "ZeRO-2, projector": ("engine.zero_stage=2", "model.train=[projector]"),
    "ZeRO-2": ("engine.zero_stage=2",),
    "ZeRO-3": ("engine.zero_stage=3",),
    "ZeRO-3, projector": ("engine.zero_stage=3", "model.train=[projector]"),
    "ZeRO-3, checkpointed": ("engine.zero_stage=3", "engine.activation_checkpointing=true"),
    "ZeRO-3, offloaded": ("engine.zero_stage=3", "engine.offload=cpu"),
    "ZeRO-3, bfloat16": ("engine.zero_stage=3", "engine.precision=bf16"),
    "ZeRO-2, adapters on 4 bits": ("engine.zero_stage=2", "model.lora={rank: 2, alpha: 4, bits: 4}"),
    "ZeRO-3, adapters": ("engine.zero_stage=3", "model.lora={rank: 2, alpha: 4}"),
}


@pytest.mark.parametrize("case", list(CASES))
def test_two_processes_step_like_one(pair: Any, shelf: Path, tmp_path: Path, case: str) -> None:
    """The ranks' micro-batches differ in everything: no rank waits for another, and the weights are those of one."""
    if "bits" in case:
        pytest.importorskip("bitsandbytes", reason="the extra `bits` is not installed")
    overrides = [*tuned("llama"), *CASES[case]]
    shared = {"shelf": str(shelf), "batches": write_micro_batches(shelf, tmp_path), "kind": "llama"}
    one = pair_jobs.step_language_side(
        **shared, output=str(tmp_path / "one"), overrides=[*overrides, "engine.zero_stage=1"]
    )
    two = pair.run("step_language_side", **shared, output=str(tmp_path / "two"), overrides=overrides)
    rounded = "bfloat16" in case
    for rank in two:
        assert rank["losses"] == pytest.approx(one["losses"], rel=2e-2 if rounded else 1e-4)
        assert rank["buffers"] == {"torch.float32"}
        assert (rank["built"] == 0) == ("ZeRO-3" in case)  # a partitioned parameter holds nothing itself
    shared_out = [
        guesses for turn in zip(*(rank["predicted"] for rank in two), strict=True) for guesses in turn
    ]
    assert shared_out == one["predicted"] or rounded
    tolerance = {"atol": 5e-3, "rtol": 2e-2} if rounded else {"atol": 2e-5, "rtol": 1e-4}
    folders = ["model"] + (["adapter"] if "adapters" in case else [])
    for folder, file in zip(folders, ("model.safetensors", "adapter_model.safetensors"), strict=False):
        weights = [load_file(tmp_path / name / folder / file) for name in ("one", "two")]
        assert set(weights[0]) == set(weights[1])
        for name, tensor in weights[0].items():
            torch.testing.assert_close(weights[1][name], tensor, **tolerance, msg=name)


@pytest.mark.slow
def test_zero_3_leaves_no_trace_in_the_process(shelf: Path, tmp_path: Path) -> None:
    """A world of one: torch's and transformers' functions are afterwards what they were."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    before = {name: getattr(torch, name) for name in ("empty", "zeros", "arange", "tensor")}
    linear, init = torch.nn.functional.linear, torch.nn.Linear.__init__
    pair_jobs.step_language_side(
        str(shelf),
        str(tmp_path),
        write_micro_batches(shelf, tmp_path),
        [*tuned("llama"), "engine.zero_stage=3"],
        "llama",
    )
    assert all(getattr(torch, name) is function for name, function in before.items())
    assert torch.nn.functional.linear is linear and torch.nn.Linear.__init__ is init
    assert not is_deepspeed_zero3_enabled()
