"""Model folders as `save_pretrained` writes them, and what is said about those that cannot be opened."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging

from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.architectures import sharp_model
from interp.hooks.loading import open_folder
from interp.hooks.model import HookedModel
from interp.kernels.errors import InterpError

IDS = torch.randint(3, 128, (2, 6), generator=torch.Generator().manual_seed(9))


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Saving prints a progress bar."""
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def saved(model: Any, folder: Path, tokenizer: Any = None) -> Path:
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def reconfigured(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def opened(folder: Path, **options: Any) -> HookedModel:
    return open_folder(folder, name="it", **options)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "gpt_neox", "mixtral"])
def test_a_saved_model_opens_as_it_was(name: str, tmp_path: Path) -> None:
    hf = sharp_model(name)
    model = opened(saved(hf, tmp_path))
    with torch.no_grad():
        assert torch.equal(model.run_plain(IDS), hf(IDS).logits)
    assert model.name == "it" and model.has_trained_head and model.tokenizer is None
    assert type(model.adapter.model) is type(hf) and not model.adapter.model.training


def test_the_tokenizer_and_its_template_come_along(tmp_path: Path, bpe: Any) -> None:
    folder = saved(sharp_model("llama", vocab_size=len(bpe)), tmp_path, bpe)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    model = opened(folder)
    assert model.batch("The cat sat").input_ids.tolist() == [bpe("The cat sat")["input_ids"]]
    assert model.batch([{"role": "user", "content": "The cat"}]).size == 1
    assert set(model.source) >= {"weights_sha256", "config_sha256", "tokenizer_sha256", "chat_template_sha256"}


def test_digests_are_those_of_the_files(tmp_path: Path) -> None:
    folder = saved(sharp_model("gpt2"), tmp_path)
    model = opened(folder, revision="abc")
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert model.source["weights_sha256"] == {"model.safetensors": weights}
    assert model.source["config_sha256"] == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    assert model.source["revision"] == "abc" and model.describe()["config_sha256"] == model.source["config_sha256"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", torch.float16])
def test_dtype_is_what_is_asked_for(dtype: Any, tmp_path: Path) -> None:
    folder = saved(sharp_model("llama"), tmp_path)
    assert opened(folder).dtype == torch.float32
    wanted = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    assert opened(folder, dtype=dtype).dtype == wanted


def test_attention_is_what_is_asked_for(tmp_path: Path) -> None:
    folder = saved(sharp_model("llama"), tmp_path)
    assert opened(folder).describe()["attention"] == ["sdpa"]
    assert opened(folder, attention="eager").describe()["attention"] == ["eager"]


def test_an_unknown_attention_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InterpError, match="E201") as caught:
        opened(saved(sharp_model("llama"), tmp_path), attention="spda")
    assert "sdpa" in caught.value.fix


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InterpError, match="E201") as caught:
        opened(saved(sharp_model("gpt2"), tmp_path), dtype="float31")
    assert "float32" in caught.value.fix


# --- output layers that were never trained ------------------------------------------------------------------------


def encoder(**settings: Any) -> Any:
    from transformers import BertModel

    full = sharp_model("bert")
    model = BertModel(full.config, **settings).eval()
    model.load_state_dict(full.bert.state_dict(), strict=False)
    return model


@pytest.mark.parametrize("pooling", [True, False])
def test_an_encoder_alone_gives_hidden_states(pooling: bool, tmp_path: Path) -> None:
    bare = encoder(add_pooling_layer=pooling)
    model = opened(saved(bare, tmp_path))
    assert model.adapter.output_name == "last_hidden_state"
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), bare(IDS).last_hidden_state)


def test_a_fresh_output_layer_is_found_out(tmp_path: Path) -> None:
    folder = reconfigured(saved(encoder(), tmp_path), architectures=["BertForMaskedLM"])
    model = opened(folder)
    assert not model.has_trained_head and model.adapter.output_name == "logits"
    assert model.heads == {"": (4, 4)}


def test_a_tied_output_layer_counts_as_trained(tmp_path: Path) -> None:
    folder = saved(sharp_model("gpt2"), tmp_path)
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in file.keys()
    assert opened(folder).has_trained_head


# --- folders that cannot be opened --------------------------------------------------------------------------------


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InterpError, match="E405") as caught:
        opened(tmp_path)
    assert "config.json" in caught.value.what and caught.value.where == str(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"model_type": "no-such-model"}', '{"model_type": 3}', "\xff"],
    ids=["empty", "cut off", "a list", "nothing", "unknown", "a number", "no text"],
)
def test_a_config_that_describes_no_model_is_refused(text: str, tmp_path: Path) -> None:
    folder = saved(sharp_model("gpt2"), tmp_path)
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InterpError, match="E405") as caught:
        opened(folder)
    assert caught.value.where.endswith("config.json")


def test_a_class_that_transformers_lacks_is_refused(tmp_path: Path) -> None:
    folder = reconfigured(saved(sharp_model("gpt2"), tmp_path), architectures=["MyOwnModel"])
    with pytest.raises(InterpError, match="E405") as caught:
        opened(folder)
    assert "MyOwnModel" in caught.value.what


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    folder = reconfigured(saved(sharp_model("llama"), tmp_path), intermediate_size=128)
    with pytest.raises(InterpError, match="E405") as caught:
        opened(folder)
    assert "6 weights have another shape" in caught.value.what


@pytest.mark.parametrize("lost", ["model.layers.1.self_attn.o_proj.weight", "model.norm.weight"])
def test_missing_weights_are_refused(lost: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved(sharp_model("llama"), tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InterpError, match="E405") as caught:
        opened(folder)
    assert lost in caught.value.what


def test_no_weights_are_refused(tmp_path: Path) -> None:
    folder = saved(sharp_model("gpt2"), tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InterpError, match="E405") as caught:
        opened(folder)
    assert "safetensors" in caught.value.what


@pytest.mark.parametrize("damage", ["cut", "not safetensors"])
def test_damaged_weights_are_refused(damage: str, tmp_path: Path) -> None:
    folder = saved(sharp_model("gpt2"), tmp_path)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000] if damage == "cut" else b"hello, world")
    with pytest.raises(InterpError, match="E405") as caught:
        opened(folder)
    assert caught.value.where == str(folder)


def test_pickled_weights_are_refused_unless_trusted(tmp_path: Path) -> None:
    hf = sharp_model("gpt2")
    folder = saved(hf, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(hf.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InterpError, match="E310") as caught:
        opened(folder)
    assert caught.value.exit_code == 3 and "--allow-pickle" in caught.value.fix
    model = opened(folder, allow_pickle=True)
    with torch.no_grad():
        assert torch.equal(model.run_plain(IDS), hf(IDS).logits)


def test_a_pickle_beside_safetensors_is_never_read(tmp_path: Path) -> None:
    folder = saved(sharp_model("gpt2"), tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04not a pickle")
    assert opened(folder).has_trained_head


def test_loading_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = reconfigured(saved(encoder(), tmp_path), architectures=["BertForMaskedLM"])
    capfd.readouterr()
    level = logging.get_verbosity()
    opened(folder)
    assert capfd.readouterr() == ("", "") and logging.get_verbosity() == level


# --- models without attention, or with some -----------------------------------------------------------------------


def test_a_model_without_attention_is_refused(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    sizes = dict(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4, conv_kernel=2, time_step_rank=2)
    with pytest.raises(InterpError, match="E401") as caught:
        opened(saved(MambaForCausalLM(MambaConfig(**sizes)).eval(), tmp_path))
    assert caught.value.exit_code == 4 and "MambaForCausalLM" in caught.value.what


def test_layers_without_attention_are_listed(tmp_path: Path) -> None:
    from transformers import Lfm2Config, Lfm2ForCausalLM

    from interp.hooks.interventions import Ablate

    config = Lfm2Config(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention", "conv", "full_attention"],
    )
    model = opened(saved(Lfm2ForCausalLM(config).eval(), tmp_path))
    assert model.heads == {"": (0, 4, 0, 4)} and model.kv_heads == {"": (0, 2, 0, 2)} and model.n_layers == 4
    assert isinstance(model.adapter, HuggingFaceAdapter)
    clean = model(IDS)
    with model.edit(Ablate("all")):
        assert not torch.equal(model(IDS), clean)
    with model.edit(Ablate("L2H0")), pytest.raises(InterpError, match="E401") as caught:
        model(IDS)
    assert "1, 3" in caught.value.fix
