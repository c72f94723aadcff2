"""`PlainTransformer` and its attention never compute another pattern than the one that was asked for."""

import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.masking_utils import AttentionMaskInterface, eager_mask

import interp
from interp.kernels.backends.eager import NORMALISERS, attention_pattern
from interp.kernels.errors import InterpError
from interp.zoo.edges import sweep
from interp.zoo.plain import PlainConfig, PlainTransformer, eager_attention

OTHERS = [name for name in NORMALISERS if name != "softmax"]
IDS = torch.arange(10).reshape(2, 5)

each = pytest.mark.parametrize("normaliser", OTHERS)


def model(normaliser, **options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "initializer_range": 0.5, **options}
    return PlainTransformer(PlainConfig(normaliser=normaliser, **sizes)).eval()


@torch.no_grad()
def logits(made):
    return made(IDS).logits


def refused(code, said):
    return pytest.raises(InterpError, match=f"(?s)E{code}.*{said}")


@each
def test_attention_that_knows_softmax_alone_is_refused(normaliser):
    made = model(normaliser)
    right = logits(made)
    made.set_attn_implementation("sdpa")
    with refused(205, f"'sdpa' computes a softmax, this model needs '{normaliser}'.*set_attn_implementation"):
        logits(made)
    with refused(205, "'sdpa'"):
        interp.HookedModel.from_hf(made)
    made.set_attn_implementation("eager")
    assert torch.equal(logits(made), right) and not torch.allclose(right, logits(model("softmax")), atol=1e-3)


@each
def test_such_attention_given_at_load_is_refused_too(normaliser, tmp_path):
    made = model(normaliser)
    made.save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa")
    with refused(205, "'sdpa'"):
        logits(opened)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(made))


def test_softmax_takes_any_attention():
    made = model("softmax")
    right = logits(made)
    for name in ("sdpa", "eager"):
        made.set_attn_implementation(name)
        torch.testing.assert_close(logits(made), right, atol=1e-5, rtol=1e-5)


@each
def test_attention_that_takes_a_normaliser_is_used(normaliser, monkeypatch):
    made = model(normaliser)
    right = logits(made)
    monkeypatch.setitem(AttentionInterface._global_mapping, "takes_a_normaliser", eager_attention)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "takes_a_normaliser", eager_mask)
    made.set_attn_implementation("takes_a_normaliser")
    assert torch.equal(logits(made), right)
    torch.testing.assert_close(interp.HookedModel.from_hf(model(normaliser))(IDS), right, atol=1e-5, rtol=1e-5)
    assert max(sweep(model(normaliser), IDS).values()) > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"normaliser": "sofmax"}, "no normaliser 'sofmax'.*did you mean 'softmax'"),
        ({"norm": "rms"}, "no norm 'rms'.*known: layer, none"),
        ({"norm": "Layer"}, "did you mean 'layer'"),
    ],
)
def test_unknown_names_in_a_configuration_are_refused(given, said, tmp_path):
    with refused(201, said):
        PlainConfig(**given)
    config = model("relu").config
    config.update(given)
    config.save_pretrained(tmp_path)
    with refused(201, said):
        PlainConfig.from_pretrained(tmp_path)


def test_patterns_refuse_what_they_would_ignore():
    scores, sink = torch.zeros(1, 2, 3, 3), torch.zeros(2)
    with refused(201, "no normaliser 'sigmiod'.*did you mean 'sigmoid'"):
        attention_pattern(scores, normaliser="sigmiod")
    for normaliser in OTHERS:
        with refused(205, f"a sink has no meaning with normaliser '{normaliser}'"):
            attention_pattern(scores, sink=sink, normaliser=normaliser)
        assert attention_pattern(scores, normaliser=normaliser).shape == scores.shape
    assert float(attention_pattern(scores, sink=sink).sum(-1).max()) < 1
