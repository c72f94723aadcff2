"""Evidence for edges against scipy, and agreement of rankings that are equal, independent, or known in between."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from interp.circuits.evidence import sign_flip_p
from interp.circuits.graph.graph import Graph, LayerShape
from interp.circuits.judging import significance
from interp.circuits.judging.overlap import chance_jaccard
from interp.circuits.judging.significance import edge_evidence
from interp.circuits.judging.stability import agreement, group_means, resampled_stability, stability
from interp.kernels.errors import InterpError

GRAPH = Graph.of_shape([LayerShape(2, 2)] * 2)
TRUE = GRAPH.of_labels(["embed->L0H1.v", "L0H1->M1", "M1->logits", "L0H1->logits"])


def planted(n: int, seed: int, effect: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *GRAPH.full.shape)) + effect * TRUE


def test_evidence_is_that_of_scipy_edge_by_edge() -> None:
    scores = planted(20, 0)
    found = edge_evidence(GRAPH, scores)
    rows = scores[:, GRAPH.full]
    np.testing.assert_allclose(found.mean[GRAPH.full], rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.standard_error[GRAPH.full], stats.sem(rows), rtol=1e-12)
    p = stats.ttest_1samp(rows, 0).pvalue
    np.testing.assert_allclose(found.q[GRAPH.full], stats.false_discovery_control(p), rtol=1e-9)
    edge = GRAPH.edge("L0H1->M1")
    expected = stats.bootstrap((scores[:, *edge],), np.mean, n_resamples=5000, rng=np.random.default_rng(0))
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert found.low[edge] == pytest.approx(expected.confidence_interval.low, abs=0.1 * width)
    assert found.high[edge] == pytest.approx(expected.confidence_interval.high, abs=0.1 * width)
    assert found.can_claim and found.n == 20


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = planted(12, 1).astype(np.float32)
    for test in ("t", "sign-flip"):
        whole = edge_evidence(GRAPH, scores, test=test, n_boot=100)
        with monkeypatch.context() as patch:
            patch.setattr(significance, "CELLS", 300)
            split = edge_evidence(GRAPH, scores, test=test, n_boot=100)
        for name in ("mean", "standard_error", "low", "high", "q"):
            np.testing.assert_allclose(getattr(split, name), getattr(whole, name), rtol=1e-9)


def test_the_planted_edges_are_selected() -> None:
    found = edge_evidence(GRAPH, planted(40, 2))
    selected = found.selected(1e-6)
    np.testing.assert_array_equal(selected.edges, TRUE)
    assert (selected.asked, selected.actual) == (4, 4)
    assert found.selected(0.0).actual == 0
    assert found.selected(1.0).actual == GRAPH.n_edges


@pytest.mark.parametrize("test", ["t", "sign-flip"])
def test_edges_without_effect_are_rarely_selected(test: str) -> None:
    wrong = [
        edge_evidence(GRAPH, planted(15, seed, effect=0), test=test, n_boot=20).q[GRAPH.full].min()
        for seed in range(40)
    ]
    assert 0 < sum(q <= 0.2 for q in wrong) <= 16  # 8 expected; 16 is three standard errors more


def test_the_sign_flip_test_says_when_prompts_are_too_few() -> None:
    found = edge_evidence(GRAPH, planted(6, 0, effect=50), test="sign-flip")
    assert found.p_floor == 2 / 2**6
    assert not found.can_claim
    p = sign_flip_p(planted(6, 0, effect=50)[:, TRUE].T)
    np.testing.assert_array_equal(p, np.full(4, 2 / 2**6))
    assert edge_evidence(GRAPH, planted(6, 0, effect=50)).can_claim


def test_an_edge_that_never_varies_is_not_tested() -> None:
    scores = planted(10, 0)
    scores[:, *GRAPH.edge("M0->M1")] = 3.0
    for test in ("t", "sign-flip"):
        found = edge_evidence(GRAPH, scores, test=test)
        edge = GRAPH.edge("M0->M1")
        assert found.q[edge] == 1.0 and found.mean[edge] == 3.0 and np.isnan(found.low[edge])


def test_one_prompt_gives_means_alone() -> None:
    found = edge_evidence(GRAPH, planted(1, 0))
    assert np.isnan(found.standard_error[GRAPH.full]).all() and (found.q[GRAPH.full] == 1).all()


def test_agreement_is_spearmans_and_jaccards() -> None:
    for seed in range(4):
        one, other = planted(2, seed)
        found = agreement(GRAPH, one, other, 10)
        ranked = [np.abs(scores[GRAPH.full]) for scores in (one, other)]
        assert found.spearman == pytest.approx(stats.spearmanr(*ranked).statistic, abs=1e-12)
        first, second = (set(np.argsort(-values)[:10].tolist()) for values in ranked)
        assert found.jaccard == len(first & second) / len(first | second)
    assert agreement(GRAPH, one, one, 10) == pytest.approx((1, 1))
    assert agreement(GRAPH, one, -one, 10) == pytest.approx((1, 1))
    assert agreement(GRAPH, one, -one, 3, absolute=False) == pytest.approx((-1, 0))
    assert np.isnan(agreement(GRAPH, one, np.zeros_like(one), 0)).all()


def test_independent_rankings_agree_as_chance_says() -> None:
    rng = np.random.default_rng(0)
    found = stability(GRAPH, list(rng.normal(size=(40, *GRAPH.full.shape))), 12)
    assert len(found.jaccard) == 40 * 39 / 2
    assert found.chance == chance_jaccard(GRAPH.n_edges, 12, 12)
    error = found.jaccard.std() / np.sqrt(40)  # pairs are not independent; sets are
    assert found.mean == pytest.approx(found.chance, abs=3 * error)
    assert found.low <= found.mean <= found.high
    assert abs(found.spearman.mean()) < 0.05


@pytest.mark.parametrize("ways", ["bootstrap", "halves"])
def test_rankings_of_planted_edges_are_stable_and_those_of_noise_are_not(ways: str) -> None:
    planted_scores, noise = planted(60, 0, effect=3), planted(60, 0, effect=0)
    kept = resampled_stability(GRAPH, planted_scores, 4, ways=ways)
    lost = resampled_stability(GRAPH, noise, 4, ways=ways)
    assert (kept.mean, kept.low, kept.high) == (1, 1, 1)
    assert len(lost.jaccard) == 100 and lost.low < 0.3
    assert lost.mean < 0.5 and lost.mean == pytest.approx(lost.jaccard.mean())
    again = resampled_stability(GRAPH, noise, 4, ways=ways)
    np.testing.assert_array_equal(lost.jaccard, again.jaccard)


def test_of_noise_halves_agree_as_chance_says_and_resamples_by_one_half() -> None:
    """Means of two resamples of one data set share the noise of that data set, which is half of their variance."""
    found = {}
    for ways in ("halves", "bootstrap"):
        sets = [planted(60, seed, effect=0) for seed in range(30)]
        found[ways] = [resampled_stability(GRAPH, one, 12, ways=ways, n_pairs=20, absolute=False) for one in sets]
    spearman = {ways: np.array([one.spearman.mean() for one in each]) for ways, each in found.items()}
    jaccard = {ways: np.array([one.mean for one in each]) for ways, each in found.items()}
    error = jaccard["halves"].std() / np.sqrt(30)
    assert jaccard["halves"].mean() == pytest.approx(found["halves"][0].chance, abs=4 * error)
    assert spearman["halves"].mean() == pytest.approx(0, abs=4 * spearman["halves"].std() / np.sqrt(30))
    expected = 6 / np.pi * np.arcsin(0.5 / 2)  # Spearman's correlation of normal numbers whose Pearson's is 1/2
    assert spearman["bootstrap"].mean() == pytest.approx(expected, abs=4 * spearman["bootstrap"].std() / np.sqrt(30))
    assert jaccard["bootstrap"].mean() > jaccard["halves"].mean() + 0.1


def test_halves_share_no_prompt() -> None:
    """With a mark for each prompt in one edge each, a half shows which prompts it holds."""
    n = 9
    marks = np.zeros((n, *GRAPH.full.shape))
    for prompt, where in enumerate(np.argwhere(GRAPH.full)[:n]):
        marks[(prompt, *where)] = 1.0
    found = resampled_stability(GRAPH, marks, 4, ways="halves", n_pairs=20)
    assert (found.jaccard == 0).all()


def test_groups_are_compared_by_their_means() -> None:
    scores = planted(6, 0)
    means = group_means(scores, ["a", "b", "a", "b", "b", "c"])
    assert list(means) == ["a", "b", "c"]
    np.testing.assert_allclose(means["b"], scores[[1, 3, 4]].mean(0))
    assert len(stability(GRAPH, list(means.values()), 5).jaccard) == 3


def test_what_says_nothing_is_refused() -> None:
    scores = planted(4, 0)
    bad = scores.copy()
    bad[2, *GRAPH.edge("M0->M1")] = np.inf
    for call, code in (
        (lambda: edge_evidence(GRAPH, scores[:, :, :2]), "E206"),
        (lambda: edge_evidence(GRAPH, scores[:0]), "E206"),
        (lambda: edge_evidence(GRAPH, bad), "E207"),
        (lambda: edge_evidence(GRAPH, scores, test="z"), "E201"),
        (lambda: stability(GRAPH, [scores[0]], 3), "E205"),
        (lambda: group_means(scores, ["a", "b"]), "E205"),
        (lambda: resampled_stability(GRAPH, scores[:1], 3), "E205"),
        (lambda: resampled_stability(GRAPH, scores, 3, ways="jackknife"), "E201"),
        (lambda: resampled_stability(GRAPH, scores, GRAPH.n_edges + 1), "E203"),
    ):
        with pytest.raises(InterpError) as caught:
            call()
        assert caught.value.code == code
