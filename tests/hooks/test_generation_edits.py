"""What interventions do to the attention of written tokens, and which are refused."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch, pad
from interp.hooks.interventions import (
    Ablate,
    Blend,
    Calibrate,
    Hook,
    Intervention,
    Knockout,
    Patch,
    Redistribute,
)
from interp.hooks.model import HookedModel
from interp.hooks.names import point_name
from interp.hooks.reference import mean_reference, paired_reference
from interp.hooks.swap import Swap
from interp.kernels.errors import InterpError
from interp.kernels.variants.calibration import SinkCalibration

LENGTHS = (9, 5, 7)
STEPS = 3


def batch_of(model: HookedModel, side: str = "right") -> Batch:
    ids = torch.randint(3, 100, (3, 9), generator=torch.Generator().manual_seed(1))
    return model.batch(pad([row[:length].tolist() for row, length in zip(ids, LENGTHS, strict=True)], 0, side))


@dataclass(frozen=True)
class Watch(Intervention):
    """Keeps the patterns of some layers, as the interventions before it left them."""

    layers: tuple[int, ...]
    seen: list[tuple[HookContext, Tensor]] = field(default_factory=list, compare=False)

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        def keep(pattern: Tensor, context: HookContext) -> None:
            self.seen.append((context, pattern.clone()))

        return [(point_name("attn.hook_pattern", layer), keep) for layer in self.layers]


EDITS: dict[str, Intervention] = {
    "uniform": Ablate("all", "uniform"),
    "identity": Ablate("all", "identity"),
    "to-sink": Ablate("all", "to-sink"),
    "blend": Blend("all", 0.5),
    "blend uniform": Blend("all", 0.5, "uniform", queries="end"),
    "knockout": Knockout("all", "end", (1, 2)),
    "redistribute": Redistribute("all", take=(0, 1), share=0.5),
    "calibrate": Calibrate("all", threshold=0.15),
    "values": Ablate("all", "zero"),
}


@pytest.mark.parametrize("architecture", ["llama", "gpt_oss", "gemma3"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_no_edit_lets_a_query_see_a_later_key_or_padding(hooked: Any, architecture: str, side: str) -> None:
    model = hooked(architecture)
    for name, edit in EDITS.items():
        watch = Watch(tuple(range(model.n_layers)))
        model.generate(batch_of(model, side), max_new_tokens=STEPS, edits=[edit, watch], stop=())
        assert len(watch.seen) == STEPS * model.n_layers
        for context, pattern in watch.seen:
            assert context.batch is not None and context.batch.mask is not None
            real = context.batch.mask
            queries = context.start + torch.arange(pattern.shape[2])
            seen = (torch.arange(pattern.shape[3]) <= queries[:, None]) & real[:, None, None, :]
            rows = real[:, None, context.start :].expand(pattern.shape[:3])
            assert pattern.shape[3] == len(real[0]) and pattern.shape[2] == len(real[0]) - context.start
            assert float(pattern.masked_fill(seen, 0)[rows].abs().max()) == 0, name
            if architecture != "gpt_oss":  # whose rows leave room for a sink that is no token
                torch.testing.assert_close(pattern.sum(-1)[rows], torch.ones(int(rows.sum())), atol=1e-5, rtol=0)


def test_calibration_turns_down_the_prompt_s_sinks_in_written_rows_and_keeps_row_sums(hooked: Any) -> None:
    model, threshold, beta = hooked("llama"), 0.15, 0.4
    before, after = Watch((0,)), Watch((0,))
    edits = [before, Calibrate("L0H*", threshold, beta), after]
    model.generate(batch_of(model), max_new_tokens=STEPS, edits=edits, stop=())
    prompt = before.seen[0][1]
    changed = 0
    for (context, own), (_, new) in zip(before.seen, after.seen, strict=True):
        for row, head in itertools.product(range(3), range(4)):
            sinks = sinks_of(prompt[row, head], LENGTHS[row], threshold)
            for query in range(max(context.start, 9 - LENGTHS[row]), own.shape[3]):
                a = own[row, head, query - context.start].tolist()
                wanted = calibrated(a, sinks, beta)
                found = new[row, head, query - context.start]
                torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-6, rtol=0)
                assert abs(float(found.sum()) - 1) < 1e-5
                changed += context.start > 0 and a != wanted
    assert changed > 0


def sinks_of(pattern: Tensor, length: int, threshold: float) -> list[int]:
    """Columns of one head's map of a prompt that stands at the right end, but the first that is above."""
    n = pattern.shape[0]
    means = {
        key: sum(pattern[query, key].item() for query in range(key, n)) / (n - key) for key in range(n - length, n)
    }
    return [key for key, mean in means.items() if mean > threshold][1:]


def calibrated(row: list[float], sinks: list[int], beta: float) -> list[float]:
    freed = sum((1 - beta) * row[key] for key in sinks)
    rest = sum(value for key, value in enumerate(row) if key not in sinks)
    if rest == 0:
        return row
    return [beta * value if key in sinks else value + freed * value / rest for key, value in enumerate(row)]


def test_in_one_forward_calibration_is_the_operator(hooked: Any) -> None:
    model = hooked("llama")
    batch = batch_of(model)
    for beta in (0.4, 1.0):
        outputs = []
        for edit in (Calibrate("all", 0.15, beta), Swap("all", SinkCalibration(threshold=0.15, beta=beta))):
            with model.edit(edit):
                outputs.append(model(batch)[batch.mask])
        torch.testing.assert_close(*outputs, atol=1e-5, rtol=0)
        changed = float((outputs[0] - model(batch)[batch.mask]).abs().max())
        assert changed < 1e-5 if beta == 1 else changed > 1e-3


@pytest.mark.parametrize("target", ["identity", "uniform"])
def test_blend_goes_from_nothing_to_the_whole_target(hooked: Any, target: str) -> None:
    model = hooked("llama")
    batch = batch_of(model)

    def output(*edits: Intervention) -> Tensor:
        with model.edit(*edits):
            return model(batch)

    assert torch.equal(output(Blend("all", 0.0, target)), output(Redistribute("all", take=0, share=0.0)))
    assert torch.equal(output(Blend("all", 1.0, target)), output(Ablate("all", target)))
    watch, half = Watch((0,)), Watch((0,))
    output(watch)
    output(Blend("L0H2", 0.25, target), half)
    own, new = watch.seen[0][1], half.seen[0][1]
    for row, length in enumerate(LENGTHS):
        for query, key in itertools.product(range(length), repeat=2):
            aim = float(query == key) if target == "identity" else (key <= query) / (query + 1)
            assert new[row, 2, query, key].item() == pytest.approx(
                0.75 * own[row, 2, query, key].item() + 0.25 * aim, abs=1e-6
            )
    assert torch.equal(new[:, [0, 1, 3]], own[:, [0, 1, 3]])
    with pytest.raises(InterpError, match="E205"):
        Blend("all", 1.5)
    with pytest.raises(InterpError, match="E201"):
        Blend("all", 0.5, "sink")
    with pytest.raises(InterpError, match="E205"):
        Calibrate("all", beta=2.0)


def test_what_would_mean_two_things_is_refused(hooked: Any) -> None:
    model = hooked("llama")
    batch = batch_of(model)
    other = paired_reference(model, [batch], "*")
    by_position = mean_reference(model, [batch], per_position=True)
    refused = {
        "E205.*positions of one text": [
            Ablate("L0H1", "resample", other),
            Ablate("L0H1", "mean", by_position),
            Patch("resid_pre", other, layers=[1], positions="end"),
            Patch("pattern", other, heads="L0H1"),
        ],
        "E205.*Calibrate": [Swap("L0H1", SinkCalibration())],
        "E313.*outside": [Ablate("L0H1", positions=(11,)), Knockout("L0H1", None, (-1,))],
        "E313.*no position is called": [Ablate("L0H1", positions="subject")],
        "E205.*without any key": [Knockout("L0H1", None, tuple(range(9)))],
    }
    for pattern, edits in refused.items():
        for edit in edits:
            with pytest.raises(InterpError, match=f"(?s){pattern}"):
                model.generate(batch, max_new_tokens=STEPS, edits=[edit])
    model.generate(batch, max_new_tokens=STEPS, edits=[Ablate("L0H1", positions=(10,))])


def test_an_edit_that_does_not_reach_a_written_token_is_an_error(hooked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = hooked("llama")
    batch, forward = batch_of(model), model.adapter.cached_forward
    model.generate(batch, max_new_tokens=STEPS, edits=[Ablate("L0H1")])

    def forgets(inputs: Any, cache: Any) -> Tensor:
        return forward(inputs, cache) if cache.get_seq_length() == 0 else torch.zeros(3, 1, 128)

    monkeypatch.setattr(model.adapter, "cached_forward", forgets)
    with pytest.raises(InterpError, match=r"(?s)E404.*attn.hook_z 0 times.*token at 9"):
        model.generate(batch, max_new_tokens=STEPS, edits=[Ablate("L0H1")], stop=())


def test_nothing_is_left_of_an_edit(hooked: Any) -> None:
    model = hooked("llama")
    batch = batch_of(model)
    clean = model(batch)
    with model.edit(Ablate("L0H1")):
        inside = model.generate(batch, max_new_tokens=STEPS, edits=[Ablate("L0H2")], logits=True)
    both = model.generate(batch, max_new_tokens=STEPS, edits=[Ablate("L0H1,L0H2")], logits=True)
    torch.testing.assert_close(inside.logits, both.logits, atol=1e-6, rtol=0)
    assert [edit["kind"] for edit in inside.edits] == ["Ablate", "Ablate"]
    assert torch.equal(model(batch), clean) and not model.is_edited


def test_what_attention_writes_is_edited_before_the_stream_that_it_joins(hooked: Any) -> None:
    """Two hooks on one module, in the order in which their values arise."""
    model, seen = hooked("llama"), dict[str, Tensor]()

    def keep(value: Tensor, context: HookContext) -> None:
        seen[context.point.kind] = value.clone()

    names = ("blocks.0.hook_resid_mid", "blocks.0.hook_resid_pre")
    model.run_with_hooks([[5, 6, 7]], {"blocks.0.hook_attn_out": lambda x, _: 0 * x, **dict.fromkeys(names, keep)})
    assert torch.equal(seen["hook_resid_mid"], seen["hook_resid_pre"])
