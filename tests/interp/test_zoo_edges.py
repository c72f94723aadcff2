import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from interp.hooks.model import HookedModel
from interp.zoo import edges
from interp.zoo.edges import mattering, record, squared_difference, sweep
from interp.zoo.plain import PlainConfig, PlainTransformer
from interp.zoo.ports import find_ports

FAMILIES = ("gpt2", "llama", "gpt_neox", "olmo2", "plain")
SIZES = {"vocab_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "bos_token_id": 0,
         "eos_token_id": 0, "pad_token_id": 0, "max_position_embeddings": 16}  # fmt: skip


def random_model(family, **settings):
    """A small model whose weights are large enough for every edge to count."""
    import transformers

    classes = {"gpt2": "GPT2", "llama": "Llama", "gpt_neox": "GPTNeoX", "olmo2": "Olmo2"}
    sizes = {**SIZES, "intermediate_size": 24, **settings}
    if family == "plain":
        model = PlainTransformer(PlainConfig(**sizes))
    else:
        if family == "gpt2":
            sizes["n_inner"] = sizes.pop("intermediate_size")
        name = classes[family]
        config = getattr(transformers, f"{name}Config")(**sizes)
        model = getattr(transformers, f"{name}LMHeadModel" if family == "gpt2" else f"{name}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(1 if is_scale else 0, 0.3, generator=generator)
    return model.eval()


def prompts(seed, batch=3, length=6):
    return torch.randint(1, 20, (batch, length), generator=torch.Generator().manual_seed(seed))


class Naive:
    """A plain transformer written out writer by writer, in which one reader may see another sum of the stream."""

    def __init__(self, model, ids):
        self.model, self.config, self.ids = model, model.config, ids

    def run(self, swap=None, stand_in=None):
        """`swap`: (writer, reader); `stand_in`: what the writer's part is in the reader's input."""
        body, cfg = self.model.model, self.config
        positions = torch.arange(self.ids.shape[1])
        self.parts = {"embed": body.embed_tokens.weight[self.ids], "pos_embed": body.embed_positions.weight[positions]}
        self.constant = torch.zeros(cfg.hidden_size)

        def read(reader):
            parts = dict(self.parts)
            if swap is not None and swap[1] == reader:
                parts[swap[0]] = stand_in
            return sum(parts.values()) + self.constant

        for index, layer in enumerate(body.layers):
            attn, new = layer.self_attn, {}
            for head in range(cfg.num_attention_heads):
                new[f"L{index}H{head}"] = self.head(layer, attn, head, [read(f"L{index}H{head}.{x}") for x in "qkv"])
            self.parts |= new
            self.constant = self.constant + attn.o_proj.bias
            if hasattr(layer, "mlp"):
                inner = self.norm(layer.post_attention_layernorm, read(f"M{index}"))
                hidden = (inner @ layer.mlp.up_proj.weight.T + layer.mlp.up_proj.bias).clamp(min=0)
                self.parts[f"M{index}"] = hidden @ layer.mlp.down_proj.weight.T + layer.mlp.down_proj.bias
        final = read("logits")
        return (self.norm(body.norm, final) if hasattr(body, "norm") else final) @ self.model.lm_head.weight.T

    def head(self, layer, attn, head, streams):
        cfg, width = self.config, attn.head_dim
        group = head // (cfg.num_attention_heads // cfg.num_key_value_heads)
        rows = slice(head * width, (head + 1) * width), slice(group * width, (group + 1) * width)
        q, k, v = (
            self.norm(layer.input_layernorm, stream) @ linear.weight[row].T + linear.bias[row]
            for linear, row, stream in zip(
                (attn.q_proj, attn.k_proj, attn.v_proj), (rows[0], rows[1], rows[1]), streams, strict=True
            )
        )
        z = torch.zeros_like(v)
        for end in range(q.shape[1]):
            seen = end + 1 if cfg.causal else q.shape[1]
            for row in range(len(q)):
                scores = torch.stack([q[row, end] @ k[row, key] for key in range(seen)]) / math.sqrt(width)
                z[row, end] = (scores.exp() / scores.exp().sum()) @ v[row, :seen]
        return z @ attn.o_proj.weight[:, rows[0]].T

    def norm(self, norm, x):
        if isinstance(norm, nn.Identity):
            return x
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("kind", ["resample", "zero"])
def test_every_edge_is_what_a_written_out_forward_finds(norm, kind):
    shape = {"norm": norm, "causal": norm == "layer", "num_key_value_heads": 2, "num_attention_heads": 2}
    model = random_model("plain", **{**shape, "num_key_value_heads": 1})
    ids, others = prompts(0, 2, 4), prompts(1, 2, 4)
    with torch.no_grad():
        found = sweep(model, ids, others if kind == "resample" else None, at=slice(1, None))
        naive, other = Naive(model, ids), Naive(model, others)
        clean = naive.run()
        other.run()
        stand_ins = {w: x if kind == "resample" else torch.zeros_like(x) for w, x in other.parts.items()}
        for edge, effect in found.items():
            writer, reader = edge.split("->")
            edited = Naive(model, ids).run((writer, reader), stand_ins[writer])
            assert effect == pytest.approx(float((edited - clean)[:, 1:].pow(2).mean()), rel=1e-3, abs=1e-7), edge
    assert sum(effect > 1e-4 for effect in found.values()) > 20


@pytest.mark.parametrize("family", FAMILIES)
def test_writers_add_up_to_the_stream(family):
    """With the biases of output projections, which belong to nobody. Where norms follow, they have no bias."""
    model = random_model(family)
    ports, ids, seen = find_ports(model), prompts(0), []
    handle = ports.final.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        writes, _ = record(model, ports, ids)
    handle.remove()
    biases = [layer.out.bias for layer in ports.layers if layer.out.bias is not None]
    assert torch.allclose(sum(writes.values()) + sum(biases), seen[0], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_there_are_as_many_edges_as_the_formula_says(family):
    """sum over layers of (3H + 1) W + H, and W at the end; W writers come before; no H where blocks are parallel."""
    found = sweep(random_model(family), prompts(0), prompts(1))
    begin, heads = (2 if family in ("gpt2", "plain") else 1), SIZES["num_attention_heads"]
    own = 0 if family == "gpt_neox" else heads
    before = [begin + layer * (heads + 1) for layer in range(3)]
    assert len(found) == sum((3 * heads + 1) * w + own for w in before[:2]) + before[2]
    assert ("L0H0->M0" in found) == (family != "gpt_neox") and ("pos_embed->M0" in found) == (begin == 2)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "olmo2"])
@pytest.mark.parametrize("part", ["q", "v"])
def test_edges_into_heads_are_what_the_hook_layer_finds(family, part):
    """The stream is shifted at one layer and only q (after norms and rotation) or v of one head is kept from that run."""
    model, ids, others = random_model(family), prompts(0), prompts(1)
    hooked = HookedModel.from_hf(model)
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        found = sweep(model, ids, others)
        ports = find_ports(model)
        change = record(model, ports, others)[0]["L0H3"] - record(model, ports, ids)[0]["L0H3"]
    name = f"blocks.1.attn.hook_{'rot_q' if part == 'q' and family != 'gpt2' else part}"
    shift = {"blocks.1.hook_resid_pre": lambda x, _: x + change, name: lambda x, _: seen.update(x=x.clone())}
    hooked.run_with_hooks(ids, shift)

    def put(x, _):
        x = x.clone()
        x[:, :, 2] = seen["x"][:, :, 2]
        return x

    effect = float((hooked.run_with_hooks(ids, {name: put}) - hooked(ids)).pow(2).mean())
    assert effect > 1e-5  # else it would be lost in rounding, and prove nothing
    assert found[f"L0H3->L1H2.{part}"] == pytest.approx(effect, rel=1e-3)


def test_grouped_keys_are_replaced_for_one_query_head_alone():
    """So that each query head's edge stands by itself, though the weights are shared."""
    model = random_model("llama", num_key_value_heads=2)
    effects = sweep(model, prompts(0), prompts(1))
    keys = [effects[f"embed->L1H{head}.k"] for head in range(4)]
    assert len(set(keys)) == 4 and min(keys) > 0


def test_the_model_is_left_as_it_is():
    model = random_model("llama")
    implementation, before = model.config._attn_implementation, model(prompts(0)).logits
    sweep(model, prompts(0))
    assert model.config._attn_implementation == implementation
    assert torch.equal(before, model(prompts(0)).logits)
    assert not any(hasattr(module, "edge_tap") or module._forward_pre_hooks for module in model.modules())


def test_an_edge_that_changes_nothing_has_no_effect():
    """Resampling from the prompt itself."""
    assert max(sweep(random_model("plain"), prompts(0), prompts(0)).values()) < 1e-9


def test_a_measure_of_ones_own_sees_edited_and_clean_logits():
    def rise(edited, clean):
        assert edited.shape[1:] == clean.shape and clean.shape[1] == 1
        return (edited - clean)[..., 3].mean((1, 2))

    signed = sweep(random_model("plain"), prompts(0), prompts(1), at=slice(-1, None), measure=rise)
    assert min(signed.values()) < 0 < max(signed.values())


def test_mattering_keeps_order_and_leaves_out_what_is_small():
    assert mattering({"a->b": 0.02, "b->c": 2.0, "a->c": 0.5}, 0.1) == ["b->c", "a->c"]
    assert mattering({"a->b": 0.02, "b->c": 2.0, "a->c": 0.5}, 0.001) == ["a->b", "b->c", "a->c"]


def test_squared_difference_is_a_mean():
    clean = torch.zeros(2, 3, 4)
    assert squared_difference(torch.stack([clean + 2, clean]), clean).tolist() == [4.0, 0.0]


def test_an_unknown_family_is_refused():
    with pytest.raises(KeyError):
        find_ports(SimpleNamespace(config=SimpleNamespace(model_type="mamba")))
    assert edges.NAME != "interp"  # nothing of the hook layer is in use
