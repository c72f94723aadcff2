"""What stands in for writers, against loops over single prompts, and learned constants against what they must beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.means import averaged
from interp.circuits.edges.optimal import Learning, learned, singles
from interp.circuits.edges.posed import Posed
from interp.circuits.edges.replacements import REPLACEMENTS, stand_in
from interp.circuits.graph.flow import Flow, Writes
from interp.circuits.question import Question
from interp.hooks.batch import pad
from interp.hooks.metrics import metric
from interp.kernels.errors import InterpError
from tests.cases.posed import planted

QUICK = Learning(rate=0.02, steps=40, every=10)


def ragged(name: str, lengths: tuple[int, ...] = (5, 9, 3, 9)) -> tuple[Flow, Posed]:
    """Prompts of several lengths, padded to one width."""
    case = planted(name)
    ids = case.taken.question.batch.input_ids
    rows = [ids[row, :length].tolist() for row, length in enumerate(lengths)]
    batch = pad(rows, 0)
    answer = torch.arange(len(rows))
    return case.flow, Posed(Question(batch, batch.end, metric("logit_diff"), answer, answer + 1))


def alone(flow: Flow, posed: Posed) -> list[Writes]:
    """What writers write on each prompt without padding."""
    lengths = posed.mask.sum(1).tolist()
    ids = posed.question.batch.input_ids
    return [flow.record(pad([ids[row, :length].tolist()], 0)) for row, length in enumerate(lengths)]


def each(one: Writes) -> dict[str, Tensor]:
    """Every tensor by a name."""
    parts = {"embed": one.embed, "heads": one.heads, "mlp": one.mlp}
    return {f"{kind} {key}": value for kind, some in parts.items() for key, value in some.items()}


def close(found: Writes, of: Callable[[str], Tensor]) -> None:
    for name, value in each(found).items():
        torch.testing.assert_close(value, of(name), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["planted-induction", "planted-induction-postnorm", "planted-induction-gqa"])
def test_a_mean_counts_every_real_token_once_and_no_padding(name: str) -> None:
    flow, posed = ragged(name)
    found = stand_in("mean", flow, posed).values
    assert found is not None
    prompts = [each(one) for one in alone(flow, posed)]
    close(found, lambda key: torch.cat([one[key][0] for one in prompts]).mean(0)[None, None])


def test_means_do_not_depend_on_how_prompts_are_batched() -> None:
    flow, posed = ragged("planted-induction")
    weights = torch.rand(3, *posed.mask.shape) * posed.mask
    whole, cut = (averaged(flow, posed.question.batch, weights, chunk) for chunk in (64, 3))
    close(cut, lambda key: each(whole)[key])


def test_positional_means_are_means_over_prompts_at_each_position() -> None:
    flow, posed = ragged("planted-induction", (7, 7, 7))
    stand = stand_in("mean-positional", flow, posed)
    assert stand.values is not None and stand.lengths == 7
    prompts = [each(one) for one in alone(flow, posed)]
    close(stand.values, lambda key: torch.stack([one[key][0] for one in prompts]).mean(0)[None])
    wider = pad([row.tolist() for row in posed.question.batch.input_ids], 0)
    padded = replace(wider, inputs=pad([[*row.tolist(), 0, 0] for row in wider.input_ids], 0).inputs)
    padded = replace(padded, mask=torch.nn.functional.pad(wider.mask, (0, 2)))
    found = each(stand.contrast(flow, replace(posed, question=replace(posed.question, batch=padded))).ablated)
    for key, value in each(stand.values).items():
        torch.testing.assert_close(found[key], torch.cat([value, value[:, -1:], value[:, -1:]], 1))


def test_means_by_class_of_position_need_no_common_length() -> None:
    flow, posed = ragged("planted-induction")
    places = ("first", "even", "odd")
    flow = replace(flow, graph=flow.graph.at_places(places))
    at = torch.arange(posed.mask.shape[1])
    place_of = torch.where(at == 0, 0, 1 + at % 2).expand(len(posed), -1).clone()
    place_of[1, 3] = 0  # classes are told from the prompt, not from the position
    posed = replace(posed, place_of=place_of)
    contrast = stand_in("mean-positional", flow, posed).contrast(flow, posed)
    prompts, lengths = [each(one) for one in alone(flow, posed)], posed.mask.sum(1).tolist()
    for key, value in each(contrast.ablated).items():
        for place in range(3):
            of_class = [(row, p) for row, n in enumerate(lengths) for p in range(n) if place_of[row, p] == place]
            mean = torch.stack([prompts[row][key][0, p] for row, p in of_class]).mean(0)
            for row, p in of_class:
                torch.testing.assert_close(value[row, p], mean, atol=2e-5, rtol=2e-5)


def test_without_edges_nothing_of_the_prompt_is_left_but_under_resampling_the_corrupt_one() -> None:
    case = planted("planted-induction", 16)
    none = [case.flow.graph.none]
    corrupt = Question(
        case.judged.corrupt, case.judged.question.read_at, case.judged.question.metric,
        case.judged.question.answer, case.judged.question.distractor,
    )  # fmt: skip
    answers = corrupt.clean(case.flow.model, 0, len(case.judged), 64)
    expected = corrupt.measure(answers, 0, len(case.judged), None)
    found = MaskedRuns(stand_in("resample", case.flow, case.taken).contrast(case.flow, case.judged)).values(none)[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for name in ("zero", "mean"):
        contrast = stand_in(name, case.flow, case.taken).contrast(case.flow, case.judged)
        outputs = MaskedRuns(contrast).outputs(torch.from_numpy(none[0][None]).float())[0]
        torch.testing.assert_close(outputs, outputs[:1].expand_as(outputs), atol=1e-4, rtol=1e-4)


def test_a_metric_that_compares_with_the_model_gets_the_untouched_output() -> None:
    case = planted("planted-copy", 16, "kl")
    runs = MaskedRuns(stand_in("mean", case.flow, case.taken).contrast(case.flow, case.judged))
    full, none = runs.values([case.flow.graph.full, case.flow.graph.none])
    assert full.abs().max() < 1e-5 and (none < -1).all()


@pytest.mark.parametrize("loss", ["kl", "metric"])
def test_learned_constants_cost_less_than_means_and_leave_the_model_alone(loss: str) -> None:
    case = planted("planted-induction", 16)
    start = stand_in("mean", case.flow, case.taken).contrast(case.flow, case.taken)
    asked = [parameter.requires_grad for parameter in case.flow.model.adapter.model.parameters()]
    circuit = [case.edges("resample")]
    found = learned(start, circuit, replace(QUICK, loss=loss))
    assert found.after < found.before - 0.05
    runs = MaskedRuns(replace(start, ablated=found.values))
    outputs = runs.outputs(torch.from_numpy(circuit[0][None]).float()).detach()
    if loss == "metric":
        again = -float(runs.measured(outputs).mean())
    else:
        clean = case.taken.question.clean(case.flow.model, 0, 8, 64).log_softmax(-1)
        again = float((clean.exp() * (clean - outputs[0].log_softmax(-1))).sum(-1).mean())
    assert again == pytest.approx(found.after, rel=1e-3, abs=1e-4)
    assert [parameter.requires_grad for parameter in case.flow.model.adapter.model.parameters()] == asked
    assert all(parameter.grad is None for parameter in case.flow.model.adapter.model.parameters())


def test_without_circuits_each_writer_learns_as_if_it_alone_were_out() -> None:
    case = planted("planted-copy", 16)
    start = stand_in("mean", case.flow, case.taken).contrast(case.flow, case.taken)
    short = Learning(rate=1e-2, steps=4, every=4)
    together = learned(start, (), short)
    assert together.after < together.before
    index = case.flow.graph.writer_index["L0H2"]
    by_itself = learned(start, [singles(case.flow.graph)[index]], short)
    torch.testing.assert_close(
        together.values.heads[0][:, :, 2], by_itself.values.heads[0][:, :, 2], atol=1e-4, rtol=1e-4
    )
    assert not torch.equal(by_itself.values.heads[0][:, :, 2], start.ablated.heads[0][:, :, 2])
    torch.testing.assert_close(by_itself.values.heads[0][:, :, 1], start.ablated.heads[0][:, :, 1])


def test_what_cannot_be_taken_is_refused() -> None:
    flow, posed = ragged("planted-induction")
    with pytest.raises(InterpError, match="3 to 9 tokens have no common positions"):
        stand_in("mean-positional", flow, posed)
    with pytest.raises(InterpError, match="no corrupt side"):
        stand_in("resample", flow, posed).contrast(flow, posed)
    with pytest.raises(InterpError, match="no replacement 'men'"):
        stand_in("men", flow, posed)
    with pytest.raises(InterpError, match="no loss"):
        Learning(loss="l2")
    even = ragged("planted-induction", (7, 7))[1]
    with pytest.raises(InterpError, match="prompts of 7 tokens"):
        stand_in("mean-positional", flow, even).contrast(flow, posed)
    assert all(one.says and one.source for one in REPLACEMENTS.values())
