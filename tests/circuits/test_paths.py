"""Path patching against three forwards written out with hooks, on several architectures; and what must be exactly 0."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import interp.circuits.paths as paths_module
from interp.circuits.paths import Paths, Sender
from interp.circuits.receivers import parse_receivers, reaches, sharing
from interp.hooks.architectures import sharp_model
from interp.hooks.batch import Batch, pad
from interp.hooks.model import HookedModel
from interp.hooks.names import HeadId
from interp.kernels.errors import InterpError

LENGTHS, COMMON = (9, 12, 7), 3
FULL, SOME = ("gpt2", "llama", "gemma2"), ("gpt_neox", "bert", "mixtral")
"""Architectures for all kinds of receivers, and for some: parallel blocks, post-norm encoder, experts."""


@cache
def opened(name: str) -> HookedModel:
    if name == "bloom_normed":
        return HookedModel.from_hf(sharp_model("bloom", n_layer=3, apply_residual_connection_post_layernorm=True))
    layers = "n_layer" if name in ("gpt2", "bloom") else "num_hidden_layers"
    return HookedModel.from_hf(sharp_model(name, **{layers: 3}), name=name)


@cache
def prompts(name: str) -> tuple[Batch, Batch]:
    """Prompts of several lengths, and others that part from them after three tokens."""
    draw = torch.Generator().manual_seed(5)
    rows = [torch.randint(3, 100, (length,), generator=draw).tolist() for length in LENGTHS]
    others = [row[:COMMON] + torch.randint(3, 100, (len(row) - COMMON,), generator=draw).tolist() for row in rows]
    model = opened(name)
    return model.batch(pad(rows, 0)), model.batch(pad(others, 0))


def read(output: Tensor, batch: Batch) -> Tensor:
    return output[torch.arange(len(output)), batch.end]


def three_forwards(name: str, sender: Sender, receivers: tuple[str, ...], through_mlps: bool) -> Tensor:
    """The definition: record both runs, patch and hold, then a base run with what the receivers read."""
    model, (base, source) = opened(name), prompts(name)
    _, own = model.run_with_cache(base, "*")
    _, other = model.run_with_cache(source, "*.hook_z")
    read_at: dict[str, Tensor] = {}

    def hold(x: Tensor, context: Any) -> Tensor:
        z = own[context.name].clone()
        for head in sender.heads:
            if context.point.layer == head.layer:
                for row in range(base.size):
                    for position in places(base, sender.positions, row, x.shape[1]):
                        z[row, position, head.head] = other[context.name][row, position, head.head]
        return z

    def hold_mlp(x: Tensor, context: Any) -> Tensor | None:
        read_at[context.name] = x.clone()
        return None if through_mlps else own[context.name]

    def note(x: Tensor, context: Any) -> None:
        read_at[context.name] = x.clone()

    n = model.n_layers
    hooks: dict[str, Any] = {f"blocks.{layer}.attn.hook_z": hold for layer in range(n)}
    if not through_mlps or any(label.startswith("M") for label in receivers):
        hooks |= {f"blocks.{layer}.hook_mlp_out": hold_mlp for layer in range(n)}
    inputs = [label for label in receivers if "." in label]
    points = {label: f"blocks.{label[1]}.attn.hook_{label[-1]}" for label in inputs}
    hooks |= dict.fromkeys(points.values(), note)
    direct = model.run_with_hooks(base, hooks)
    if receivers == ("logits",):
        return read(direct, base)

    def put(heads: list[int]) -> Any:
        def hook(x: Tensor, context: Any) -> Tensor:
            x = x.clone()
            x[:, :, heads] = read_at[context.name][:, :, heads]
            return x

        return hook

    final: dict[str, Any] = {
        f"blocks.{label[1:]}.hook_mlp_out": lambda x, context: read_at[context.name]
        for label in receivers
        if "." not in label
    }
    for point in dict.fromkeys(points.values()):
        final[point] = put([int(label.split(".")[0][-1]) for label in inputs if points[label] == point])
    return read(model.run_with_hooks(base, final), base)


def places(batch: Batch, positions: Any, row: int, width: int) -> list[int]:
    if positions is None:
        return list(range(width))
    return [int(batch.end[row])] if positions == "end" else list(positions)


def ours(name: str, senders: list[Sender], receivers: tuple[str, ...], through_mlps: bool, **options: Any) -> Tensor:
    model, (base, source) = opened(name), prompts(name)
    found = parse_receivers(receivers, model)
    parts = Paths(model, base, source, base.end, found, through_mlps, **options).outputs(senders)
    outputs = {number: output for numbers, part, _ in parts for number, output in zip(numbers, part, strict=True)}
    return torch.stack([outputs[number] for number in range(len(senders))])


SENDERS = [
    Sender((HeadId("", 0, 1),)),
    Sender((HeadId("", 1, 2),), "end"),
    Sender((HeadId("", 0, 3),), (4, 6)),
    Sender((HeadId("", 0, 0), HeadId("", 1, 3))),
]


def receivers_of(name: str) -> list[tuple[str, ...]]:
    shared = opened(name).kv_heads[""][2] != opened(name).heads[""][2]
    k, v = ("L2KV1.k", "L2KV0.v") if shared else ("L2H1.k", "L2H3.v")
    several: list[tuple[str, ...]] = [("logits",), ("M1", "M2"), ("L1H2.q", k, v, "M2")]
    return several if name in SOME else [*several, ("M1",), ("L2H1.q",), (k,), (v,), ("L2H0.q", k, v)]


@pytest.mark.parametrize("through_mlps", [False, True])
@pytest.mark.parametrize("name", [*FULL, *SOME])
def test_paths_are_three_forwards(name: str, through_mlps: bool) -> None:
    clean = read(opened(name)(prompts(name)[0]), prompts(name)[0])
    for receivers in receivers_of(name):
        found = ours(name, SENDERS, receivers, through_mlps)
        assert found.shape == (len(SENDERS), *clean.shape)
        for sender, output in zip(SENDERS, found, strict=True):
            expected = three_forwards(name, sender, receivers, through_mlps)
            scale = max(1.0, float(expected.abs().max()))
            assert float((output - expected).abs().max()) <= 1e-5 * scale, (receivers, sender)
        assert float((found[0] - clean).abs().max()) > 1e-3, f"nothing went to {receivers}"


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_to_the_logits_around_mlps_only_the_last_norm_and_the_output_layer_work(name: str) -> None:
    """The final stream plus what the sender writes anew, through norm and output layer alone."""
    model, (base, source) = opened(name), prompts(name)
    core, head = model.adapter.model, HeadId("", 1, 2)
    _, own = model.run_with_cache(base, ["*.hook_resid_post", "*.hook_attn_out"])
    _, other = model.run_with_cache(source, "blocks.1.attn.hook_z")

    def swap(z: Tensor, _: Any) -> Tensor:
        z = z.clone()
        z[:, :, head.head] = other["blocks.1.attn.hook_z"][:, :, head.head]
        return z

    seen: dict[str, Tensor] = {}
    hooks = {"blocks.1.attn.hook_z": swap, "blocks.1.hook_attn_out": lambda x, _: seen.update(written=x)}
    model.run_with_hooks(base, hooks)
    last = own["blocks.2.hook_resid_post"] + seen["written"] - own["blocks.1.hook_attn_out"]
    norm = core.transformer.ln_f if name == "gpt2" else core.model.norm
    with torch.no_grad():
        logits = core.lm_head(norm(last))
    if (cap := getattr(core.config, "final_logit_softcapping", None)) is not None:
        logits = cap * torch.tanh(logits / cap)
    found = ours(name, [Sender((head,))], ("logits",), False)[0]
    torch.testing.assert_close(found, read(logits, base), atol=1e-5, rtol=0)


@pytest.mark.parametrize("receivers", [("logits",), ("L2H1.q",), ("M2",)])
def test_what_cannot_change_is_exactly_unchanged(receivers: tuple[str, ...]) -> None:
    """A sender at tokens that both prompts share, and the same prompts on both sides."""
    model, (base, _) = opened("llama"), prompts("llama")
    clean = ours("llama", [Sender((HeadId("", 0, 1),), (0, COMMON - 1))], receivers, True)[0]
    found = parse_receivers(receivers, model)
    ((_, same, untouched),) = Paths(model, base, base, base.end, found, True).outputs([Sender((HeadId("", 0, 1),))])
    plain = read(model(base), base)
    assert torch.equal(same[0], clean) and torch.equal(untouched, clean)
    torch.testing.assert_close(clean, plain, atol=1e-5, rtol=0)


def test_a_sender_behind_the_receiver_sends_nothing() -> None:
    late = Sender((HeadId("", 2, 0),))
    plain = read(opened("llama")(prompts("llama")[0]), prompts("llama")[0])
    for receivers in (("L0H1.q",), ("L2H1.q",), ("M1",)):
        torch.testing.assert_close(ours("llama", [late], receivers, False)[0], plain, atol=1e-5, rtol=0)
    assert not any(reaches(late.heads[0], parse_receivers(one, opened("llama"))) for one in ("L2H1.v", "M1"))
    assert all(reaches(late.heads[0], parse_receivers(one, opened("llama"))) for one in ("logits", "M2"))


def test_numbers_do_not_depend_on_how_many_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    receivers = ("L1H2.q", "L2KV1.v", "M2")
    together = ours("llama", SENDERS, receivers, True)
    monkeypatch.setattr(paths_module, "TOKENS", 1)
    alone = ours("llama", SENDERS, receivers, True, budget=1)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_only_wanted_columns_are_given() -> None:
    columns = torch.tensor([3, 50, 70])
    for receivers in (("logits",), ("L2H1.q",)):
        whole = ours("gpt2", SENDERS[:2], receivers, True)
        part = ours("gpt2", SENDERS[:2], receivers, True, columns=columns)
        torch.testing.assert_close(part, whole[..., columns], atol=1e-5, rtol=0)


def test_receivers_by_their_labels() -> None:
    gqa, mha = opened("llama"), opened("gpt2")
    assert [one.label for one in parse_receivers(["L2H1.q", "L2H3.k", "L2H2.k", "M0"], gqa)] == [
        "L2H1.q",
        "L2KV1.k",
        "M0",
    ]
    assert [one.label for one in parse_receivers("L2H3.k", mha)] == ["L2H3.k"]
    assert sharing(parse_receivers(["L2H3.k", "L2H3.q"], gqa), gqa) == ("L2KV1.k is read by L2H2, L2H3 alike.",)
    assert sharing(parse_receivers("L2H3.k", mha), mha) == ()


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("logit", "E201"),
        ("L2H1", "E201"),
        ("L2KV0.q", "E201"),
        ((), "E201"),
        (["logits", "M1"], "E205"),
        ("M3", "E203"),
        ("L3H0.q", "E203"),
        ("L2KV2.k", "E203"),
    ],
)
def test_receivers_that_are_not_there_are_named(spec: Any, code: str) -> None:
    with pytest.raises(InterpError) as caught:
        parse_receivers(spec, opened("llama"))
    assert caught.value.code == code


def test_models_whose_mlps_cannot_be_held_are_refused_with_the_reason() -> None:
    """Where Bloom adds the normed stream, no write adds up; paths through its MLPs are still exact."""
    model, (base, source) = opened("bloom_normed"), prompts("bloom_normed")
    logits = parse_receivers("logits", model)
    with pytest.raises(InterpError) as caught:
        Paths(model, base, source, base.end, logits)
    assert caught.value.code == "E403" and "add up" in str(caught.value)
    for sender, output in zip(SENDERS, ours("bloom_normed", SENDERS, ("logits",), True), strict=True):
        wanted = three_forwards("bloom_normed", sender, ("logits",), True)
        torch.testing.assert_close(output, wanted, atol=2e-5, rtol=1e-5)
