import numpy as np
import pytest
import torch

from interp.hooks.metrics import METRICS, metric
from interp.kernels.errors import InterpError

BATCH, VOCAB = 5, 11


def case(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    output, reference = (3 * torch.randn(BATCH, VOCAB, generator=generator, dtype=torch.float64) for _ in range(2))
    answer, distractor = torch.tensor([0, 3, 10, 7, 2]), torch.tensor([1, 0, 4, 8, 9])
    output[1, 3] = 20  # one prompt is answered right beyond doubt
    return output.to(dtype), answer, distractor, reference.to(dtype)


def softmax(row):
    return np.exp(row) / sum(np.exp(value) for value in row)


def naive(name, out, answer, distractor, ref):
    if name == "logit_diff":
        return out[answer] - out[distractor]
    if name == "log_prob":
        return np.log(softmax(out)[answer])
    if name == "prob_diff":
        return softmax(out)[answer] - softmax(out)[distractor]
    if name == "kl":
        return -sum(p * (np.log(p) - np.log(q)) for p, q in zip(softmax(ref), softmax(out), strict=True))
    if name == "top1":
        return float(all(out[answer] > out[other] for other in range(len(out)) if other != answer))
    if name == "closeness":
        return -sum((a - b) ** 2 for a, b in zip(out, ref, strict=True)) / len(out)
    return sum(out * ref) / np.sqrt(sum(out**2)) / np.sqrt(sum(ref**2))


@pytest.mark.parametrize("name", ["logit_diff", "log_prob", "prob_diff", "kl", "top1", "cosine", "closeness"])
def test_metric_equals_a_plain_loop(name):
    case_ = case()
    found = metric(name)(*case_)
    expected = [naive(name, *(part[row].numpy() for part in case_)) for row in range(BATCH)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert len(set(expected)) > 1


def test_the_set_of_metrics_and_their_directions():
    assert set(METRICS) == {"logit_diff", "log_prob", "prob_diff", "kl", "top1", "cosine", "closeness"}
    assert all(found.higher_is_better and found.unit and found.description for found in METRICS.values())
    assert {name for name, found in METRICS.items() if found.kind == "embedding"} == {"cosine"}


@pytest.mark.parametrize("name", sorted(METRICS))
def test_half_precision_is_computed_in_float32(name):
    output, answer, distractor, reference = case(torch.bfloat16)
    found = metric(name)(output, answer, distractor, reference)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, metric(name)(output.float(), answer, distractor, reference.float()), rtol=0, atol=0
    )


def test_kl_is_zero_for_the_reference_itself_and_negative_otherwise():
    output, _, _, reference = case()
    assert metric("kl")(reference, reference=reference).abs().max() == 0
    assert (metric("kl")(output, reference=reference) < 0).all()


def test_closeness_is_zero_for_the_reference_itself_and_flat_there():
    output, _, _, reference = case()
    at = reference.clone().requires_grad_()
    found = metric("closeness")(at, reference=reference)
    assert found.abs().max() == 0 and torch.autograd.grad(found.sum(), at)[0].abs().max() == 0
    assert (metric("closeness")(output, reference=reference) < 0).all()


def test_kl_takes_tokens_the_reference_rules_out():
    reference = torch.tensor([[0.0, 0.0, -torch.inf]])
    assert metric("kl")(torch.zeros(1, 3), reference=reference).item() == pytest.approx(-np.log(1.5))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_broken_row_is_nan_and_its_neighbours_are_not(name):
    output, answer, distractor, reference = case()
    output[2] = torch.nan
    found = metric(name)(output, answer, distractor, reference)
    assert found.isnan().tolist() == [False, False, True, False, False]


def test_top1_does_not_hide_an_infinite_logit():
    assert metric("top1")(torch.tensor([[0.0, torch.inf]]), torch.tensor([1])).isnan().all()


def test_a_missing_ingredient_is_named():
    output, answer, _, _ = case()
    with pytest.raises(InterpError, match="E303.*needs distractor"):
        metric("logit_diff")(output, answer)
    with pytest.raises(InterpError, match="needs reference"):
        metric("kl")(output, answer)


def test_a_wrong_name_gets_a_suggestion():
    with pytest.raises(InterpError, match="(?s)E201.*logit_diff"):
        metric("logit_dif")


def test_several_options_count_together():
    output, _, _, _ = case()
    answers, others = [(0, 4), (3,), (10, 1, 2), (7,), (2, 5)], [(1,), (0, 5, 6), (4,), (8, 9), (9,)]

    def padded(options):
        return torch.tensor([[*row, *[-1] * (3 - len(row))] for row in options])

    for name in ("logit_diff", "log_prob", "prob_diff", "top1"):
        given = [padded(answers), padded(others)] if "distractor" in metric(name).needs else [padded(answers)]
        for row, value in enumerate(metric(name)(output, *given).tolist()):
            out, right, wrong = output[row].numpy(), list(answers[row]), list(others[row])
            expected = {
                "logit_diff": max(out[right]) - max(out[wrong]),
                "log_prob": np.log(sum(softmax(out)[right])),
                "prob_diff": sum(softmax(out)[right]) - sum(softmax(out)[wrong]),
                "top1": float(int(np.argmax(out)) in right),
            }[name]
            assert value == pytest.approx(expected, abs=1e-12), name
