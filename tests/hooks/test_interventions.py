"""Each intervention against the same change made, cell by cell, inside a forward written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.interventions import Ablate, Intervention, Knockout, Patch, Redistribute, Scale, Steer
from interp.hooks.names import HeadId
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError

TOLERANCE = {"gpt2": 1e-10, "llama": 1e-5}
LENGTHS = (7, 4, 6)
N = max(LENGTHS)
ROLES = {"subject": ((1, 2), (0,), (3, 4))}

Edit = Callable[[str, Tensor], Tensor]
Cells = list[tuple[int, int]]


def prompts(seed: int) -> list[list[int]]:
    """Prompts of several lengths."""
    ids = torch.randint(3, 128, (3, N), generator=torch.Generator().manual_seed(seed))
    return [row[:length].tolist() for row, length in zip(ids, LENGTHS, strict=True)]


class Bench:
    """A float64 model, a right-padded batch with roles, and the forward by hand on it and on other prompts."""

    def __init__(self, family: str, hooked: Any, naive: Any) -> None:
        self.family = family
        self.model = hooked(family, dtype=torch.float64)
        self.batch: Batch = replace(self.model.batch(prompts(1)), spans=ROLES)
        self.by_hand = naive(self.model.adapter.model)
        self.clean, self.seen = self.hand(None)
        other = self.model.batch(prompts(2))
        _, self.other = self.by_hand(other.input_ids, other.mask)

    def hand(self, edit: Edit | None) -> tuple[Tensor, dict[str, Tensor]]:
        return self.by_hand(self.batch.input_ids, self.batch.mask, edit)

    def check(self, edit: Intervention | Iterable[Intervention], oracle: Edit) -> None:
        """The same logits as by hand, and not those of the clean run."""
        edits = [edit] if isinstance(edit, Intervention) else list(edit)
        with self.model.edit(*edits):
            found = self.model(self.batch)
        wanted, _ = self.hand(oracle)
        torch.testing.assert_close(found, wanted, atol=TOLERANCE[self.family], rtol=0)
        assert float((wanted - self.clean).abs().max()) > 1e-2

    def refuses(self, edit: Intervention) -> None:
        with self.model.edit(edit), pytest.raises(InterpError, match="E403"):
            self.model(self.batch)

    def from_other(self, name: str) -> Reference:
        return Reference({name: self.other[name]}, "other prompts")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def bench(request: pytest.FixtureRequest, hooked: Any, naive: Any) -> Bench:
    return Bench(request.param, hooked, naive)


POSITIONS: dict[str, tuple[Any, Cells]] = {
    "everywhere": (None, [(row, pos) for row in range(3) for pos in range(N)]),
    "end": ("end", [(0, 6), (1, 3), (2, 5)]),
    "numbers": ((1, 3), [(row, pos) for row in range(3) for pos in (1, 3)]),
    "one": (2, [(row, 2) for row in range(3)]),
    "role": ("subject", [(0, 1), (0, 2), (1, 0), (2, 3), (2, 4)]),
}
AT = pytest.mark.parametrize("at", POSITIONS)


def cellwise(name: str, heads: Iterable[int], cells: Cells, new: Callable[[Tensor, int, int, int], Any]) -> Edit:
    """Change [batch pos head d_head] at one point, a cell at a time; `new` gets the old tensor, row, pos and head."""

    def edit(at: str, value: Tensor) -> Tensor:
        if at != name:
            return value
        changed = value.clone()
        for row, pos in cells:
            for head in heads:
                changed[row, pos, head] = new(value, row, pos, head)
        return changed

    return edit


def rowwise(name: str, heads: Iterable[int], cells: Cells, new: Callable[[Tensor, int, int], Tensor]) -> Edit:
    """Change [batch head query_pos key_pos] a row at a time; `new` gets the old row, the prompt and the query."""

    def edit(at: str, value: Tensor) -> Tensor:
        if at != name:
            return value
        changed = value.clone()
        for row, query in cells:
            for head in heads:
                changed[row, head, query] = new(value[row, head, query], row, query)
        return changed

    return edit


def streamwise(name: str, cells: Cells, new: Callable[[Tensor, int, int], Tensor]) -> Edit:
    def edit(at: str, value: Tensor) -> Tensor:
        if at != name:
            return value
        changed = value.clone()
        for row, pos in cells:
            changed[row, pos] = new(value, row, pos)
        return changed

    return edit


Z = "blocks.0.attn.hook_z"
PATTERN = "blocks.1.attn.hook_pattern"


@AT
def test_zero(bench: Bench, at: str) -> None:
    positions, cells = POSITIONS[at]
    bench.check(Ablate(["L0H1", "L0H3"], "zero", positions=positions), cellwise(Z, (1, 3), cells, lambda *_: 0.0))


@AT
def test_scale(bench: Bench, at: str) -> None:
    positions, cells = POSITIONS[at]
    oracle = cellwise(Z, (2,), cells, lambda z, *cell: -2.5 * z[cell])
    bench.check(Scale("L0H2", -2.5, positions=positions), oracle)


@AT
def test_mean_over_everything(bench: Bench, at: str) -> None:
    positions, cells = POSITIONS[at]
    mean = bench.other[Z].mean((0, 1))
    oracle = cellwise(Z, (0, 2), cells, lambda z, row, pos, head: mean[head])
    bench.check(Ablate("L0H0,L0H2", "mean", Reference({Z: mean}), positions), oracle)


@AT
def test_mean_at_each_position_may_be_longer_than_the_prompts(bench: Bench, at: str) -> None:
    positions, cells = POSITIONS[at]
    mean = torch.cat([bench.other[Z].mean(0), torch.full((3, 4, 16), torch.nan, dtype=torch.float64)])
    oracle = cellwise(Z, (1,), cells, lambda z, row, pos, head: mean[pos, head])
    bench.check(Ablate("L0H1", "mean", Reference({Z: mean}), positions), oracle)


@AT
def test_resample(bench: Bench, at: str) -> None:
    positions, cells = POSITIONS[at]
    oracle = cellwise(Z, range(4), cells, lambda z, *cell: bench.other[Z][cell])
    bench.check(Ablate("L0H*", "resample", bench.from_other(Z), positions), oracle)


def allowed(row: int, query: int) -> list[int]:
    """Keys that a query of the batch may see: real ones up to itself."""
    return [key for key in range(query + 1) if key < LENGTHS[row]]


def ones_at(keys: Iterable[int], weight: float = 1.0) -> Tensor:
    made = torch.zeros(N, dtype=torch.float64)
    made[list(keys)] = weight
    return made


@AT
def test_uniform_attends_to_visible_keys_alone(bench: Bench, at: str) -> None:
    positions, cells = POSITIONS[at]
    oracle = rowwise(PATTERN, (0,), cells, lambda old, *cell: ones_at(allowed(*cell), 1 / len(allowed(*cell))))
    bench.check(Ablate("L1H0", "uniform", positions=positions), oracle)


@AT
def test_identity(bench: Bench, at: str) -> None:
    positions, cells = POSITIONS[at]
    oracle = rowwise(PATTERN, (1, 2), cells, lambda old, row, query: ones_at([query]))
    bench.check(Ablate(["L1H1", "L1H2"], "identity", positions=positions), oracle)


@AT
def test_to_sink(bench: Bench, at: str) -> None:
    positions, cells = POSITIONS[at]
    oracle = rowwise(PATTERN, (3,), cells, lambda old, row, query: ones_at([0]))
    bench.check(Ablate("L1H3", "to-sink", positions=positions), oracle)


@AT
@pytest.mark.parametrize("point", ["z", "q", "rot_q"])
def test_patch_of_query_heads(bench: Bench, point: str, at: str) -> None:
    positions, cells = POSITIONS[at]
    name = f"blocks.0.attn.hook_{point}"
    if point == "rot_q" and bench.family == "gpt2":
        return bench.refuses(Patch(point, Reference({}), heads="L0H1"))
    oracle = cellwise(name, (1, 3), cells, lambda x, *cell: bench.other[name][cell])
    bench.check(Patch(point, bench.from_other(name), heads=["L0H1", "L0H3"], positions=positions), oracle)


@AT
@pytest.mark.parametrize("point", ["k", "v", "rot_k"])
def test_patch_of_key_value_heads(bench: Bench, point: str, at: str) -> None:
    """Under grouped-query attention one key/value head serves two query heads."""
    positions, cells = POSITIONS[at]
    name = f"blocks.0.attn.hook_{point}"
    if point == "rot_k" and bench.family == "gpt2":
        return bench.refuses(Patch(point, Reference({}), kv_heads="L0H1"))
    oracle = cellwise(name, (1,), cells, lambda x, *cell: bench.other[name][cell])
    bench.check(Patch(point, bench.from_other(name), kv_heads=[(0, 1)], positions=positions), oracle)


@AT
def test_patch_of_the_pattern(bench: Bench, at: str) -> None:
    positions, cells = POSITIONS[at]

    def oracle(name: str, value: Tensor) -> Tensor:
        if name != PATTERN:
            return value
        changed = value.clone()
        for row, query in cells:
            changed[row, 2, query] = bench.other[PATTERN][row, 2, query]
        return changed

    bench.check(Patch("pattern", bench.from_other(PATTERN), heads="L1H2", positions=positions), oracle)


@AT
@pytest.mark.parametrize("point", ["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"])
def test_patch_of_the_residual_stream(bench: Bench, point: str, at: str) -> None:
    positions, cells = POSITIONS[at]
    name = f"blocks.1.hook_{point}"
    oracle = streamwise(name, cells, lambda x, *cell: bench.other[name][cell])
    bench.check(Patch(point, bench.from_other(name), layers=(1,), positions=positions), oracle)


@AT
def test_steer(bench: Bench, at: str) -> None:
    positions, cells = POSITIONS[at]
    name = "blocks.1.hook_resid_pre"
    vector = torch.randn(64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    oracle = streamwise(name, cells, lambda x, *cell: x[cell] - 1.5 * vector)
    bench.check(Steer(1, Reference({name: vector}), -1.5, positions), oracle)


def test_steering_with_weight_zero_changes_nothing(bench: Bench) -> None:
    vector = Reference({"blocks.1.hook_resid_pre": torch.ones(64, dtype=torch.float64)})
    with bench.model.edit(Steer(1, vector, 0.0)):
        assert torch.equal(bench.model(bench.batch), bench.model.run_with_hooks(bench.batch, {}))


@pytest.mark.parametrize("queries", [(3, 5), (6,)])
def test_knockout_renormalises_what_is_left(bench: Bench, queries: tuple[int, ...]) -> None:
    cells = [(row, query) for row in range(3) for query in queries]

    def without(old: Tensor, row: int, query: int) -> Tensor:
        new = old * (1 - ones_at([0, 2]))
        return new / new.sum()

    oracle = rowwise(PATTERN, (0, 3), cells, without)
    bench.check(Knockout(["L1H0", "L1H3"], queries=queries, keys=(0, 2)), oracle)


def test_knockout_from_role_to_role(bench: Bench) -> None:
    """Each prompt has its own positions: here the end may not look at the subject."""

    def without(old: Tensor, row: int, query: int) -> Tensor:
        new = old * (1 - ones_at(ROLES["subject"][row]))
        return new / new.sum()

    oracle = rowwise(PATTERN, (2,), POSITIONS["end"][1], without)
    bench.check(Knockout("L1H2", queries="end", keys="subject"), oracle)


def test_a_knockout_that_leaves_nothing_to_see_is_refused(bench: Bench) -> None:
    with (
        bench.model.edit(Knockout("L1H0", queries=None, keys=(0,))),
        pytest.raises(InterpError, match="E205") as caught,
    ):
        bench.model(bench.batch)
    assert "query 0" in caught.value.what and caught.value.where == "blocks.1.attn.hook_attn_scores"
    torch.testing.assert_close(bench.model(bench.batch), bench.clean, atol=TOLERANCE[bench.family], rtol=0)


@pytest.mark.parametrize("give", [None, (1, 3)])
@pytest.mark.parametrize("share", [1.0, 0.4, 0.0])
def test_redistribute_moves_attention_and_keeps_row_sums(bench: Bench, give: Any, share: float) -> None:
    take, queries = (0, 2), (2, 4, 6)

    def moved(old: Tensor, row: int, query: int) -> Tensor:
        givers = [key for key in range(N) if key not in take] if give is None else list(give)
        total = float(old[givers].sum())
        if total == 0:
            return old
        new, freed = old.clone(), share * float(old[list(take)].sum())
        new[list(take)] *= 1 - share
        new[givers] += freed * old[givers] / total
        return new

    cells = [(row, query) for row in range(3) for query in queries]
    oracle = rowwise(PATTERN, (1,), cells, moved)
    edit = Redistribute("L1H1", take=take, give=give, share=share, queries=queries)
    with bench.model.edit(edit):
        _, cache = bench.model.run_with_cache(bench.batch, PATTERN)
    torch.testing.assert_close(cache[PATTERN].sum(-1), torch.ones(3, 4, N, dtype=torch.float64), atol=1e-12, rtol=0)
    if share:
        bench.check(edit, oracle)
    else:
        torch.testing.assert_close(cache[PATTERN], bench.seen[PATTERN], atol=TOLERANCE[bench.family], rtol=0)


def test_edits_add_up_in_the_order_they_are_given(bench: Bench) -> None:
    both = [Scale("L0H1", 3.0), Ablate("L0H1", "resample", bench.from_other(Z), positions="end"), Scale("L0H1", 0.5)]
    ends = POSITIONS["end"][1]

    def oracle(name: str, value: Tensor) -> Tensor:
        if name != Z:
            return value
        changed = value.clone()
        changed[:, :, 1] *= 3
        for cell in ends:
            changed[cell][1] = bench.other[Z][cell][1]
        changed[:, :, 1] *= 0.5
        return changed

    bench.check(both, oracle)


def test_edits_at_several_points_and_layers_at_once(bench: Bench) -> None:
    name = "blocks.0.hook_resid_mid"
    everywhere = POSITIONS["everywhere"][1]
    edits = [
        Ablate("L0H1,L1H2", "zero"),
        Ablate("L1H0", "identity"),
        Patch("resid_mid", bench.from_other(name), layers=(0,), positions="subject"),
    ]
    steps = [
        cellwise(Z, (1,), everywhere, lambda *_: 0.0),
        cellwise("blocks.1.attn.hook_z", (2,), everywhere, lambda *_: 0.0),
        rowwise(PATTERN, (0,), everywhere, lambda old, row, query: ones_at([query])),
        streamwise(name, POSITIONS["role"][1], lambda x, *cell: bench.other[name][cell]),
    ]

    def oracle(at: str, value: Tensor) -> Tensor:
        for step in steps:
            value = step(at, value)
        return value

    bench.check(edits, oracle)


def test_nested_edits_are_both_in_force_and_end_one_by_one(bench: Bench) -> None:
    inner, outer = Ablate("L1H2", "zero"), Scale("L0H0", -1.0)
    with bench.model.edit(outer):
        only_outer = bench.model(bench.batch)
        with bench.model.edit(inner):
            both = bench.model(bench.batch)
        assert torch.equal(bench.model(bench.batch), only_outer)
    with bench.model.edit(outer, inner):
        assert torch.equal(bench.model(bench.batch), both)
    assert not torch.equal(both, only_outer)


def test_what_is_read_under_an_edit_is_what_the_model_used(bench: Bench) -> None:
    edits = {Z: Ablate("L0H1", "zero"), PATTERN: Ablate("L1H0", "identity")}
    with bench.model.edit(*edits.values()):
        _, cache = bench.model.run_with_cache(bench.batch, ["*hook_z", "*pattern", "*hook_result", "*resid_pre"])
    assert not cache[Z][:, :, 1].any() and bool(cache[Z][:, :, 0].any())
    assert not cache["result", 0][:, :, 1].any()
    assert torch.equal(cache[PATTERN][:, 0], torch.eye(N, dtype=torch.float64).expand(3, N, N))


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        (),
        (16,),
        (1, 16),
        (4, 1),
        (4, 8),
        (1, 4, 16),
        (6, 4, 16),
        (1, 7, 4, 16),
        (2, 7, 4, 16),
        (3, 1, 4, 16),
        (3, 9, 4, 16),
        (3, 7, 2, 16),
    ],
    ids=str,
)
def test_reference_values_never_broadcast_in_silence(bench: Bench, shape: tuple[int, ...]) -> None:
    reference = Reference({Z: torch.zeros(shape, dtype=torch.float64)})
    with bench.model.edit(Ablate("L0H1", "mean", reference)), pytest.raises(InterpError, match="E206") as caught:
        bench.model(bench.batch)
    assert caught.value.where == Z and "batch pos head d_head" in caught.value.what


@pytest.mark.parametrize("shape", [(), (1,), (32,), (6, 64), (1, 64), (2, 7, 64), (1, 7, 64), (3, 1, 64)], ids=str)
def test_steering_vectors_never_broadcast_in_silence(bench: Bench, shape: tuple[int, ...]) -> None:
    vector = Reference({"blocks.1.hook_resid_pre": torch.zeros(shape, dtype=torch.float64)})
    with bench.model.edit(Steer(1, vector)), pytest.raises(InterpError, match="E206"):
        bench.model(bench.batch)


@pytest.mark.parametrize("shape", [(7, 7), (1, 7, 7), (4, 6, 7), (3, 4, 6, 6), (3, 4, 8, 8), (1, 4, 7, 7)], ids=str)
def test_patterns_of_another_size_are_refused(bench: Bench, shape: tuple[int, ...]) -> None:
    source = Reference({PATTERN: torch.zeros(shape, dtype=torch.float64)})
    with bench.model.edit(Patch("pattern", source, heads="L1H0")), pytest.raises(InterpError, match="E206"):
        bench.model(bench.batch)


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (lambda ref: Ablate("L0H0", "average"), "E201", "mean"),
        (lambda ref: Ablate("L0H0", "mean"), "E205", "reference="),
        (lambda ref: Ablate("L0H0", "zero", ref), "E205", "takes no"),
        (lambda ref: Ablate("L0", "zero"), "E202", "L5H1"),
        (lambda ref: Ablate("L-1H0", "zero"), "E203", "count from 0"),
        (lambda ref: Patch("scores", ref, heads="L0H0"), "E201", "z"),
        (lambda ref: Patch("k", ref, heads="L0H0"), "E205", "kv_heads="),
        (lambda ref: Patch("v", ref, heads="L0H0", kv_heads="L0H0"), "E205", "kv_heads="),
        (lambda ref: Patch("z", ref, kv_heads="L0H0"), "E205", "heads="),
        (lambda ref: Patch("z", ref), "E205", "nothing"),
        (lambda ref: Patch("resid_pre", ref, heads="L0H0"), "E205", "layers="),
        (lambda ref: Redistribute("L0H0", take=(0,), share=1.5), "E205", "1.5"),
    ],
)
def test_interventions_that_make_no_sense_are_refused_when_made(make: Any, code: str, said: str) -> None:
    with pytest.raises(InterpError, match=code) as caught:
        make(Reference({}))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda ref: Ablate("L0H4"), "E203"),
        (lambda ref: Ablate("L2H0"), "E203"),
        (lambda ref: Ablate("vision.L0H0"), "E201"),
        (lambda ref: Patch("v", ref, kv_heads="L0H4"), "E203"),
        (lambda ref: Patch("resid_pre", ref, layers=(2,)), "E201"),
        (lambda ref: Patch("resid_pre", ref, layers=(-1,)), "E201"),
        (lambda ref: Patch("z", ref, heads="L1H0"), "E201"),
        (lambda ref: Ablate("L0H0", positions=(7,)), "E313"),
        (lambda ref: Ablate("L0H0", positions=(-1,)), "E313"),
        (lambda ref: Ablate("L0H0", positions="object"), "E313"),
        (lambda ref: Knockout("L0H0", queries=(3,), keys=(9,)), "E313"),
        (lambda ref: Knockout("L0H0", queries=(9,), keys=(0,)), "E313"),
        (lambda ref: Knockout("L0H0", queries=(3,), keys="object"), "E313"),
        (lambda ref: Redistribute("L0H0", take=(0, 1), give=(1, 2)), "E205"),
        (lambda ref: Redistribute("L0H0", take=(9,)), "E313"),
        (lambda ref: Redistribute("L0H0", take=(0,), give=(-2,)), "E313"),
    ],
)
def test_interventions_that_this_model_or_batch_cannot_take_are_refused_when_they_run(
    bench: Bench, make: Any, code: str
) -> None:
    with bench.model.edit(make(bench.from_other(Z))), pytest.raises(InterpError, match=code):
        bench.model(bench.batch)
    torch.testing.assert_close(bench.model(bench.batch), bench.clean, atol=TOLERANCE[bench.family], rtol=0)


def test_query_head_numbers_never_index_key_value_heads(hooked: Any) -> None:
    model = hooked("llama")
    source = Reference({"blocks.0.attn.hook_v": torch.zeros(1, 8, 2, 16)})
    with model.edit(Patch("v", source, kv_heads="L0H2")), pytest.raises(InterpError, match="E203") as caught:
        model(model.adapter.probe_inputs)
    assert "0 to 1" in caught.value.fix


# --- interventions as values --------------------------------------------------------------------------------------


def test_equal_edits_are_equal_and_hash_alike_however_they_are_written() -> None:
    same = [
        Ablate("L0H1, L2H3"),
        Ablate(["L0H1", "2.3"]),
        Ablate(((0, 1), "a2.h3")),
        Ablate((HeadId("", 0, 1), HeadId("", 2, 3))),
    ]
    assert len({*same}) == 1
    assert Ablate((0, 1)) == Ablate("L0H1") == Ablate([HeadId("", 0, 1)])
    assert Ablate("L0H*") == Ablate(["L0H*"]) != Ablate("L1H*")
    assert Ablate("L0H1", positions=[1, 2]) == Ablate("L0H1", positions=(1, 2)) != Ablate("L0H1", positions=(2,))
    assert Ablate("L0H1", positions=3) == Ablate("L0H1", positions=(3,))
    assert hash(Knockout("all", queries=[1], keys=[0])) == hash(Knockout("all", queries=(1,), keys=(0,)))


def test_references_are_equal_where_their_values_are() -> None:
    one, same, other = (Reference({"a": torch.full((2, 3), value)}) for value in (1.0, 1.0, 2.0))
    assert one == same and hash(one) == hash(same) and one != other
    assert Reference({"a": torch.ones(2, 3)}) != Reference({"a": torch.ones(3, 2)})
    assert Reference({"a": torch.ones(2)}) != Reference({"b": torch.ones(2)})
    assert Reference({"a": torch.ones(2)}) != Reference({"a": torch.ones(2, dtype=torch.float64)})
    assert Ablate("L0H1", "mean", one) == Ablate("L0H1", "mean", same) != Ablate("L0H1", "mean", other)


def test_edits_are_plain_data() -> None:
    reference = Reference({Z: torch.ones(4, 16)}, "a mean", paired=False)
    edits = [
        Ablate(["L0H1", "L1H*"], "mean", reference, "end"),
        Scale((0, 1), 2.0, (1, 2)),
        Patch("v", reference, kv_heads=[(0, 1)]),
        Patch("resid_mid", reference, layers=[0, 1]),
        Steer(1, reference, 0.5),
        Knockout("all", queries=None, keys=(0,)),
        Redistribute("L0H0", take=(0,), share=0.5),
    ]
    for edit in edits:
        data = json.loads(json.dumps(edit.to_dict()))
        assert data["kind"] == type(edit).__name__
        assert "tensor" not in str(data)
    assert edits[0].to_dict()["heads"] == ["L0H1", "L1H*"]
    assert edits[0].to_dict()["reference"] == {"sha256": reference.digest, "origin": "a mean"}
    assert edits[1].to_dict()["heads"] == ["L0H1"] and edits[2].to_dict()["kv_heads"] == ["L0H1"]


def test_rows_cut_paired_values_alone() -> None:
    paired = Reference({Z: torch.arange(6.0).reshape(6, 1)}, paired=True)
    mean = Reference({Z: torch.arange(6.0).reshape(6, 1)})
    cut = Ablate("L0H0", "resample", paired).rows(2, 4)
    assert cut.reference[Z].flatten().tolist() == [2.0, 3.0]
    assert Ablate("L0H0", "mean", mean).rows(2, 4) == Ablate("L0H0", "mean", mean)
    assert Scale("L0H0", 2.0).rows(0, 1) == Scale("L0H0", 2.0)
