"""Criteria of attention sinks, held against naive loops over the patterns that models show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.hooks.examples import Example
from interp.hooks.interventions import Ablate, Scale
from interp.hooks.model import HookedModel
from interp.hooks.pairs import tokenise
from interp.hooks.tiny import tiny_model
from interp.kernels.errors import InterpError
from interp.loading import load
from interp.sinks.lengths import joined
from interp.sinks.means import against_others
from interp.sinks.places import places_of
from interp.sinks.result import SinkReport
from interp.sinks.robust import massive, outliers
from interp.sinks.run import sinks
from interp.sinks.settings import Settings
from interp.sinks.survey import Survey, survey
from interp.sinks.watch import observe

IDS = [[5, 6, 7, 8, 9, 5, 6, 3, 4, 11, 12, 5], [9, 8, 7, 6, 5, 4, 3, 2, 9, 9]]
ARCHITECTURES = ("gpt2", "llama", "gpt_oss", "bert", "mistral", "gpt_neox")
"""Learned and rotary positions, shared keys, sink logits, no causality, windows."""


def opened(name: str, **overrides) -> HookedModel:
    return HookedModel.from_hf(tiny_model(name, **overrides))


def look(model: HookedModel, prompts, **settings) -> Survey:
    pairs = tokenise(None, [Example(str(index), tuple(ids)) for index, ids in enumerate(prompts)])
    places = places_of(pairs, None, {})
    layers = tuple(range(model.n_layers))
    return survey(model, pairs.clean, places, pairs.tokens, Settings(**settings), layers)


def visible(name: str, layer: int, n: int) -> np.ndarray:
    """Which keys each query sees, from what is known of the architecture."""
    if name == "bert":
        return np.ones((n, n), dtype=bool)
    seen = np.tril(np.ones((n, n), dtype=bool))
    windowed = name == "mistral" or (name == "gpt_oss" and layer == 0)
    return seen & ~np.tril(seen, -4) if windowed else seen


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_numbers_are_those_of_the_pattern_position_by_position(name: str) -> None:
    model = opened(name)
    seen = look(model, IDS, min_queries=3)
    names = ["*hook_pattern", "*hook_v", "*hook_z", "*hook_resid_pre"]
    for row, ids in enumerate(IDS):
        _, cache = model.run_with_cache([ids], names)
        n = len(ids)
        for index, head in enumerate(seen.heads):
            layer, number = int(head[1]), int(head[3:])
            pattern = cache["pattern", layer][0, number].double().numpy()
            allowed = visible(name, layer, n)
            sums, evens = [], []
            for key in range(1, n):  # the role of all others
                queries = [q for q in range(n) if allowed[q, key]]
                if len(queries) >= 3:
                    sums.append(sum(pattern[q, key] for q in queries) / len(queries))
                    evens.append(sum(1 / allowed[q].sum() for q in queries) / len(queries))
            assert seen.by_role["received"][index, row, 1] == pytest.approx(np.mean(sums), abs=1e-6)
            assert seen.by_role["uniform"][index, row, 1] == pytest.approx(np.mean(evens), abs=1e-6)
            queries = [q for q in range(n) if allowed[q, 0]]
            first = sum(pattern[q, 0] for q in queries) / len(queries)
            assert seen.by_role["received"][index, row, 0] == pytest.approx(first, abs=1e-6)
            if not seen.sinks[row, 1:].any():
                assert seen.by_domain["on_sinks"][index, row, 0] == pytest.approx(pattern[:, 0].mean(), abs=1e-6)
            assert seen.by_domain["mass"][index, row, 0] == pytest.approx(pattern.sum(1).mean(), abs=1e-6)
            shared = cache["v", layer].shape[2]
            value = cache["v", layer][0, :, number * shared // model.heads[""][layer]]
            lengths = [float(torch.linalg.norm(v @ model.w_out(layer)[number])) for v in value]
            others = np.mean(lengths[1:])
            assert seen.by_role["written"][index, row, 0] == pytest.approx(lengths[0] / others, rel=1e-4)
            plain = [float(v.norm()) for v in value]
            assert seen.by_role["values"][index, row, 0] == pytest.approx(plain[0] / np.mean(plain[1:]), rel=1e-4)
            z = cache["z", layer][0, :, number]
            wrote = [float(torch.linalg.norm(one @ model.w_out(layer)[number])) for one in z]
            assert seen.by_domain["output"][index, row, 0] == pytest.approx(np.mean(wrote), rel=1e-4)
            stream = cache[f"blocks.{layer}.hook_resid_pre"][0].norm(dim=-1)
            middle = float(stream.sort().values[(n - 1) // 2])
            assert seen.by_role["norm"][index, row, 0] == pytest.approx(float(stream[0]) / middle, rel=1e-4)


def test_even_attention_gives_the_first_key_the_harmonic_mean() -> None:
    def blind(model) -> None:
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.data.zero_()

    hf = tiny_model("llama", max_position_embeddings=64)
    blind(hf)
    n = 64
    report = sinks(HookedModel.from_hf(hf), torch.arange(n)[None] % 40, lengths=(), dormancy=False)
    harmonic = sum(1 / i for i in range(1, n + 1))
    assert report.mean("received")[:, 0] == pytest.approx(harmonic / n, abs=1e-6)
    assert harmonic / n == pytest.approx(0.0741, abs=1e-4)
    per_place = report.by_place["received"]
    tails = [sum(1 / i for i in range(k + 1, n + 1)) / (n - k) for k in range(n)]
    assert per_place[:, : n - 7] == pytest.approx(np.tile(tails[: n - 7], (len(report.heads), 1)), abs=1e-6)
    assert np.isnan(per_place[:, n - 7 :]).all(), "keys that fewer than 8 queries see say nothing"
    assert not report.spots and report.headline().startswith("No sink")


def test_few_queries_make_spurious_sinks_and_the_guard_leaves_them_out() -> None:
    ids = [list(range(16))]
    spurious = [spot for spot in look(opened("gpt2"), ids, min_queries=1, eps=0.08).spots if spot.position > 8]
    assert spurious, "the last keys are seen by one or two queries"
    assert not [spot for spot in look(opened("gpt2"), ids, min_queries=8, eps=0.08).spots if spot.position > 8]


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_batching_and_padding_change_nothing(name: str) -> None:
    model = opened(name)
    together, alone = (sinks(model, IDS, lengths=(), batch_size=size) for size in (16, 1))
    for group in ("by_role", "by_domain", "by_place"):
        for key, values in getattr(together, group).items():
            assert np.allclose(values, getattr(alone, group)[key], atol=1e-5, equal_nan=True), key
    assert np.allclose(together.effects, alone.effects, atol=1e-6, equal_nan=True)
    left = sinks(model, model.batch(IDS, padding_side="left"), lengths=())
    assert np.array_equal(left.by_role["received"], together.by_role["received"], equal_nan=True)


def test_a_change_of_a_later_token_leaves_earlier_rows_alone() -> None:
    model, first = opened("gpt_oss"), torch.zeros(1, 12, dtype=torch.bool)
    first[0, 0] = True
    prompts = [IDS[0], [*IDS[0][:-1], 30]]
    a, b = (observe(model, model.batch([ids]), Settings(), first, (0, 1)) for ids in prompts)
    for layer in (0, 1):
        for name in ("mass", "on_sinks", "values", "written", "output", "gate"):
            one, other = (getattr(found[layer], name) for found in (a, b))
            assert torch.allclose(one[..., :-1], other[..., :-1], atol=1e-6), name
            if name in ("mass", "values", "written", "output"):
                assert not torch.allclose(one[..., -1], other[..., -1], atol=1e-6), name


def test_a_gate_is_seen_by_what_it_leaves_of_z() -> None:
    model = opened("llama")
    with model.edit(Scale(heads=["L1H2"], factor=0.25)):
        seen = look(model, IDS)
    gate = dict(zip(seen.heads, seen.by_domain["gate"][:, 0, 0], strict=True))
    assert gate.pop("L1H2") == pytest.approx(0.25, abs=1e-5) and list(gate.values()) == pytest.approx([1.0] * len(gate))


def test_a_sink_logit_counts_as_a_key_of_its_own_that_heads_rest_on() -> None:
    hf = tiny_model("gpt_oss")
    hf.model.layers[1].self_attn.sinks.data[:] = torch.tensor([30.0, -30.0, -30.0, -30.0])
    report = sinks(HookedModel.from_hf(hf), [list(range(20))] * 1, lengths=())
    mass, rests = report.mean("mass")[:, 0], report.rests[:, 0]
    heads = {head: index for index, head in enumerate(report.heads)}
    assert mass[heads["L1H0"]] <= 1e-3 and mass[heads["L1H1"]] == pytest.approx(1, abs=1e-3)
    assert rests[heads["L1H0"]] == 1 and report.mean("received")[heads["L1H0"], 0] < 1e-3
    assert report.criteria[heads["L1H0"]].dormant and not report.criteria[heads["L1H0"]].attention
    assert "a sink logit takes the rest" in "\n".join(report.remarks())


def test_outliers_stand_out_from_tokens_and_not_from_dimensions() -> None:
    stream = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(0))
    stream[:, :, 5] = 40  # large at every token: no outlier
    stream[0, 7, 3] = 400
    real = torch.ones(2, 24, dtype=torch.bool)
    ratio, dimension, found = massive(stream, real, 10.0, "robust")
    assert found.nonzero().tolist() == [[0, 7]] and int(dimension[0, 7]) == 3
    assert float(ratio[0, 7]) == pytest.approx(10, rel=1e-3) and (dimension[1] == 5).all()
    assert not massive(stream, real, 10.0, "absolute")[2].any()
    stream[0, 7, 3] = 4000
    assert massive(stream, real, 10.0, "absolute")[2].nonzero().tolist() == [[0, 7]]
    assert not outliers(stream.norm(dim=-1)[:, 4:11], real[:, 4:11], 10.0)[1].any(), "too few tokens for a median"
    even = torch.ones(1, 24)
    even[0, 3] = 1.5  # all others alike: no deviation to measure by
    assert not outliers(even, real[:1], 10.0)[1].any()


def test_dormancy_is_what_ablation_does_for_each_query_taken_away() -> None:
    model = opened("llama")
    report = sinks(model, IDS[:1], token_roles={"marked": [5]}, lengths=(), n_controls=1)
    batch = model.batch(IDS[:1])
    marked = tuple(at for at, token in enumerate(IDS[0]) if token == 5)
    clean = model(batch)[0].double().log_softmax(-1)
    for head in ("L0H1", "L1H3"):
        with model.edit(Ablate(heads=[head], operator="zero", positions=marked)):
            changed = model(batch)[0].double().log_softmax(-1)
        expected = float((clean.exp() * (clean - changed)).sum()) / len(marked)
        at = report.index(head), 0, report.domains.index("marked")
        assert report.effects[at] == pytest.approx(expected, rel=1e-3, abs=1e-9) and expected > 0


def test_controls_are_taken_away_where_the_head_rests() -> None:
    model = load("planted-sink")
    ids = [model.batch("w1 w2 w3 w4 w5 w6 w7 w8 w9 again w3 w4").input_ids[0].tolist()]
    report = sinks(model, ids, token_roles={"trigger": ["again"]}, lengths=(), n_controls=1)
    index = report.index("L0H3")
    seen = [at for at, token in enumerate(report.prompts[0].tokens) if at and "again" not in token]
    assert report.rests[index, 0] == pytest.approx(len(seen) / (len(report.prompts[0].tokens) - 1))
    batch = model.batch(ids)
    clean = model(batch)[0].double().log_softmax(-1)
    (other,) = report.controls[index]
    with model.edit(Ablate(heads=[other], operator="zero", positions=seen)):
        changed = model(batch)[0].double().log_softmax(-1)
    expected = float((clean.exp() * (clean - changed)).sum()) / len(seen)
    assert report.control_effects[index, 0] == pytest.approx(expected, abs=1e-9)


def test_a_sink_beyond_the_first_token_is_found_where_it_is() -> None:
    model = load("planted-sink")
    bos = int(model.batch("w1").input_ids[0, 0])
    words = model.batch("w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14").input_ids[0, 1:].tolist()
    prompts = [[*words[:at], bos, *words[at:]] for at in (2, 4)]
    report = sinks(model, prompts, lengths=())
    assert {(spot.head, spot.prompt, spot.position) for spot in report.hidden} == {("L0H3", 0, 2), ("L0H3", 1, 4)}
    assert all(spot.written == 0 and spot.received > 0.95 for spot in report.hidden)
    assert "sinks beyond the first token in 1 head" in "\n".join(report.remarks())
    assert report.rests[report.index("L0H3")].min() > 0.6, "queries that look there rest"
    assert report.by_domain["on_sinks"][report.index("L0H3"), :, report.domains.index("resting")].min() > 0.95


def test_a_report_is_the_same_after_saving_and_keeps_its_words(tmp_path) -> None:
    report = sinks(opened("gpt2"), IDS, lengths=(16,), command="interp sinks")
    again = SinkReport.load(report.save(tmp_path / "run"))
    assert again == report and again.headline() == report.headline() and again.run_id == report.run_id
    assert again.remarks() == report.remarks() and repr(again) == repr(report)
    frame = report.to_frame()
    assert len(frame) == len(report.heads) * 2 * len(report.roles)
    row = frame[(frame.label == "L1H2") & (frame.prompt_id == "prompt-1") & (frame.role == "first")].iloc[0]
    assert (
        row.received == report.by_role["received"][report.index("L1H2"), 1, 0] and row.layer == 1 and row["head"] == 2
    )
    assert len(report.plot().data) == 1
    bare = sinks(opened("gpt2"), IDS, lengths=(), dormancy=False)
    assert SinkReport.load(bare.save(tmp_path / "bare")) == bare
    assert set(bare.verdicts) == {"not tested"} and replace(bare, spots=()) != report


def test_lengths_are_held_against_the_other_content_tokens() -> None:
    lengths = torch.tensor([[[2.0, 4.0, 6.0, 100.0]], [[0.0, 0.0, 0.0, 0.0]]])
    content = torch.tensor([[False, True, True, False], [True, True, True, True]])
    found = against_others(lengths, content)
    assert found[0, 0].tolist() == pytest.approx([2 / 5, 4 / 6, 6 / 4, 20.0]) and (found[1] == 1).all()


def test_an_interval_across_the_tolerance_decides_nothing() -> None:
    report = sinks(opened("gpt2"), IDS * 3, lengths=(), dormancy=False)
    run = replace(report.run, method={**report.run.method, "metric": "kl", "tolerance": 0.02})
    effects = np.full_like(report.by_domain["mass"], 0.0)
    for head, values in enumerate(([0.01] * 6, [0.5] * 6, [0.0, 0.03] * 3, [0.001, 0.002] * 3, [0.1, 0.3] * 3)):
        effects[head] = np.array(values)[:, None]
    effects[5:] = np.nan
    found = replace(report, run=run, effects=effects, control_effects=effects[:, :, 0])
    assert found.verdicts == ("dormant", "active", "unclear", "dormant", "active", "unclear", "unclear", "unclear")
    effects[0, :, report.domains.index("working")] = 0.5
    assert replace(found, effects=effects).verdicts[0] == "mixed"


def test_joined_prompts_have_their_length_and_their_special_tokens() -> None:
    model = load("mini")
    batch = model.batch(["When Mary and John", "went to the store"])
    pairs = joined(batch, model.tokenizer, 21)
    rows = [ids[ids_mask].tolist() for ids, ids_mask in zip(batch.input_ids, batch.mask, strict=True)]
    content = [token for row in (rows[0], rows[1]) * 5 for token in row if token not in model.tokenizer.all_special_ids]
    found = pairs.clean.input_ids[0].tolist()
    assert (
        len(found) == 21
        and found[0] == rows[0][0]
        and [token for token in found if token in content][:8] == content[:8]
    )


def test_what_makes_no_sense_is_refused() -> None:
    model = opened("gpt2")
    for wrong in ({"eps": 0.0}, {"min_queries": 0}, {"k": -1.0}, {"drained": 0.0}, {"rest": 1.0}, {"tolerance": 0.0}):
        with pytest.raises(InterpError, match="E205"):
            sinks(model, IDS, **wrong)
    with pytest.raises(InterpError, match="E201"):
        sinks(model, IDS, rule="robst")
    with pytest.raises(InterpError, match="E309"):
        sinks(model, IDS, lengths=(100_000,))
    with pytest.raises(InterpError, match="E205"):
        sinks(model, IDS, lengths=(1,))
    with pytest.raises(InterpError, match="E201"):
        sinks(model, IDS, token_roles={"first": [5]})
    with pytest.raises(InterpError, match="E313"):
        sinks(model, IDS, token_roles={"nothing": [60]})
    report = sinks(model, IDS, lengths=(), dormancy=False)
    for call in (lambda: report.mean("recieved"), lambda: report.index("L9H9"), lambda: report.states("L9H9")):
        with pytest.raises(InterpError, match="E201"):
            call()
