"""What published code computes, on stored numbers; where it differs from the paper, the docstring says how."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens.head_detector import (
    compute_head_attention_similarity_score,
    get_duplicate_token_head_detection_pattern,
    get_induction_head_detection_pattern,
    get_previous_token_head_detection_pattern,
)

from interp.heads import scorer
from interp.heads.attention import AttentionScorer
from interp.heads.effects.gradient import michel_importance
from interp.heads.patterns.spread import Entropy
from interp.heads.retrieval.gate import Gate
from interp.heads.retrieval.query_focus import query_scores
from interp.heads.retrieval.retrieval import Retrieval, Trial
from interp.heads.seeing.sparse_vectors import SparseVectors, own_class
from interp.hooks.batch import pad
from interp.hooks.edits import shared_out
from interp.hooks.interventions import Calibrate
from interp.hooks.model import HookedModel
from interp.hooks.names import parse_heads
from interp.hooks.tiny import tiny_model
from interp.kernels.attention import AttentionOutput, attention
from interp.kernels.statistics.base import Statistic
from interp.kernels.statistics.received import Received
from interp.kernels.variants.base import Variant
from interp.kernels.variants.calibration import SinkCalibration
from interp.kernels.variants.clipped import Clipped
from interp.kernels.variants.softmax import Softmax
from interp.kernels.variants.streaming import Streaming
from interp.vision.redistribution import ShareSinks, image_centric
from tests.cases.official import EXPECTED, SOURCES, integers, maps, normal, uniform

IDS = [1, 5, 6, 7, 5, 6, 8, 5, 9, 6, 7, 5]


def run(
    pattern: Tensor, variant: Variant, v: Tensor | None = None, statistics: Mapping[str, Statistic] | None = None
) -> AttentionOutput:
    """An operator where the softmax of the scores is this pattern: nothing of q and k, all of the bias."""
    nothing = torch.zeros(*pattern.shape[:3], 1, dtype=pattern.dtype)
    scores = pattern.log().masked_fill(pattern == 0, 0.0)
    return attention(nothing, nothing, nothing if v is None else v, variant, statistics or {}, bias=scores)


def agrees(name: str, found: Sequence[float] | Tensor | np.ndarray) -> None:
    assert name in SOURCES
    assert np.asarray(found, dtype=np.float64).ravel() == pytest.approx(np.array(EXPECTED[name]), abs=1e-7)


def test_sinks_are_those_of_attention_sink_and_its_last_columns_are_the_ones_with_few_queries() -> None:
    pattern = maps(11, 4, 12, 3.0)
    received = run(pattern, Softmax(), statistics={"received": Received()})["received"][0]
    alpha = received / torch.arange(12, 0, -1)
    batch, every = pad([list(range(1, 13))], 0, "right"), scorer("sink-share", least=1)
    assert isinstance(every, AttentionScorer)
    most, _ = every.read({"received": received[None]}, batch)
    agrees("sink", torch.cat([alpha[:, 0], most[0]]))
    agrees("sink_rate", 100 * (alpha > 0.3).double().mean(0))
    guarded, _ = scorer("sink-share", least=8).read({"received": received[None]}, batch)  # type: ignore[attr-defined]
    assert (guarded < most).any()


def test_calibration_is_that_of_act() -> None:
    pattern, v = maps(12, 2, 16, 2.0), normal(13, 1, 2, 16, 3)
    act = SinkCalibration(threshold=0.1, beta=0.4)
    agrees("act", run(pattern, act, v).output[0][:, [7, 15]][..., [0, 2]])
    received = run(pattern, Softmax(), statistics={"received": Received()})["received"][0]
    above = (received / torch.arange(16, 0, -1) > act.threshold).sum(-1)
    agrees("act_n", above - 1)


def test_redistribution_is_that_of_visattnsink() -> None:
    """Tokens 3 to 9 are the picture, 0 and 5 are sinks, and the rows behind the picture are changed."""
    pattern = maps(14, 6, 14, 1.5)
    sinks, image = torch.zeros(1, 14, dtype=torch.bool), torch.zeros(1, 14, dtype=torch.bool)
    sinks[0, [0, 5]], image[0, 3:10] = True, True
    fields = {name: field.default for name, field in ShareSinks.__dataclass_fields__.items()}
    chosen = image_centric(pattern, sinks, image, fields["on_sinks"], fields["seen"])
    chosen[:, :, :10] = False
    moved = shared_out(pattern, sinks[:, None, None], (image & ~sinks)[:, None, None], 1 - fields["keep"])
    found = torch.where(chosen[..., None], moved, pattern)
    agrees("var", found[0, :4, 13][:, [5, 7]])
    agrees("var_n", [int(chosen.sum())])


def test_entropy_is_that_of_active_dormant_but_for_the_first_row() -> None:
    """The published mean counts row 0, which sees one key, as 0."""
    asked, batch = Entropy(), pad([list(range(1, 11))], 0, "right")
    found = run(maps(15, 6, 10, 2.5), Softmax(), statistics=asked.asks(None, batch, 0))  # type: ignore[arg-type]
    agrees("entropy", asked.read(found.statistics, batch)[0][0] * 9 / 10)


def test_retrieval_scores_are_those_of_retrieval_head_and_of_its_paper() -> None:
    """Twelve tokens of prompt, the needle at 2 to 5, six steps of decoding."""
    prompt, picks = integers(17, 5, 8, 12), integers(18, 2, 6, 6)
    emitted = [prompt[pick] for pick in picks]
    trial = Trial({place: prompt[place] for place in range(2, 6)}, tuple((11 + t, w) for t, w in enumerate(emitted)))
    looked = maps(16, 8, 18, 4.0)[0, :, 11:17].argmax(-1).tolist()
    for form in ("count", "set"):
        agrees(form, [trial.score(keys, form) for keys in looked])


def test_query_scores_are_those_of_qrhead() -> None:
    asked, unasked = uniform(19, 6, 14)[None], uniform(20, 6, 14)[None]
    asked[0, 0, 5] -= 3
    asked[0, 3, 7] -= 2
    found = []
    for tokens in (range(2, 9), [9], range(10, 13)):
        document = torch.zeros(1, 14, dtype=torch.bool)
        document[0, list(tokens)] = True
        found.append(query_scores(asked, unasked, document, "official-code")[0])
    agrees("query", torch.cat([found[0], found[1][:2], found[2][:2]]))
    one = torch.zeros(1, 14, dtype=torch.bool)
    one[0, 9] = True
    assert torch.equal(query_scores(asked, unasked, one)[0], (asked - unasked)[0, :, 9])  # the paper keeps it


def test_sparse_vectors_are_those_of_savs() -> None:
    features, classes = normal(21, 8, 12, 5), torch.tensor(integers(22, 0, 3, 12))
    features[2] += classes[:, None]
    found = own_class(features, classes, leave_one_out=False).sum(1)
    agrees("sav", found)
    fair = own_class(features, classes, leave_one_out=True).nansum(1)
    noise = torch.arange(8) != 2
    assert found[noise].mean() > fair[noise].mean() + 2  # heads of noise look informed


def test_clipped_softmax_is_that_of_outlier_free_transformers() -> None:
    found = run(maps(23, 2, 9, 2.0), Clipped(gamma=-0.05, eta=1.1), normal(24, 1, 2, 9, 3)).output
    agrees("clipped", found[0][:, [4, 8]][..., :2])


def test_the_streaming_mask_is_that_of_duo_attention_which_makes_it_longer() -> None:
    """The published mask is for the next multiple of 8; its first rows are ours."""
    asked = Streaming(sink_tokens=2, recent=4)
    for length in (13, 16):
        even = torch.ones(1, 1, length, length, dtype=torch.float64).tril() / length
        lse = run(torch.where(even > 0, 1.0, 0.0).double(), asked).lse
        assert lse is not None
        counts = lse.exp().round()[0, 0]
        assert counts.tolist() == EXPECTED["streaming"][:length]


@pytest.mark.parametrize("name", ["previous-token", "duplicate-token", "prefix-matching"])
def test_patterns_are_scored_as_transformer_lens_does_but_for_the_rows_that_count(name: str) -> None:
    """Its detector divides by all rows, ours by those that have a target."""
    pattern, ids = maps(25, 3, 12, 2.0), torch.tensor([IDS])
    made = {
        "previous-token": get_previous_token_head_detection_pattern,
        "duplicate-token": get_duplicate_token_head_detection_pattern,
        "prefix-matching": get_induction_head_detection_pattern,
    }[name](ids)
    asked, batch = scorer(name), pad(ids.tolist(), 0, "right")
    assert isinstance(asked, AttentionScorer)
    found = run(pattern, Softmax(), statistics=asked.asks(None, batch, 0))  # type: ignore[arg-type]
    ours = asked.read(found.statistics, batch)[0][0]
    for head in range(3):
        detected = made.double() if name != "duplicate-token" else latest(made.double())
        theirs = compute_head_attention_similarity_score(
            pattern[0, head], detected, exclude_bos=False, exclude_current_token=False, error_measure="mul"
        )
        rows = int((detected.sum(-1) > 0).sum())
        assert float(ours[head]) == pytest.approx(theirs * 12 / rows, abs=1e-9)


def latest(pattern: Tensor) -> Tensor:
    """Of each row the last key alone; the detector counts every earlier place of a token, `duplicate-token` the last."""
    keys = torch.arange(pattern.shape[1])
    last = torch.where(pattern > 0, keys, -1).amax(-1, keepdim=True)
    return pattern * (keys == last)


@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_composition_is_that_of_transformer_lens(kind: str) -> None:
    """On a model whose norms have no gain and take no mean away, since TransformerLens does not fold them in."""
    model = HookedModel.from_hf(tiny_model("llama"))
    table, _ = scorer(f"{kind}-composition").pairs(model, parse_heads("all", model.heads))  # type: ignore[attr-defined]
    theirs = model.to_transformer_lens().all_composition_scores(kind.upper()).scores
    expected = theirs.flatten(2, 3).flatten(0, 1).double()
    torch.testing.assert_close(table.masked_fill(table == -torch.inf, 0).double(), expected, atol=1e-6, rtol=1e-5)
    assert (expected > 0).any()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (scorer("sink-share"), "every token"),
        (Entropy(), "first row"),
        (Retrieval(), "adds up"),
        (Gate(), "multiple of 8"),
        (SparseVectors(), "scores"),
        (scorer("query-retrieval"), "official-code"),
        (scorer("previous-token"), "all rows"),
        (scorer("duplicate-token"), "every earlier place"),
        (scorer("prefix-matching"), "all rows"),
        (query_scores, "NaN"),
        (michel_importance, "last layer"),
        (ShareSinks, "one prompt a batch"),
        (Calibrate, "first key to 1"),
    ],
)
def test_docstrings_say_how_the_published_code_differs(what: object, words: str) -> None:
    text = inspect.getdoc(what if inspect.isroutine(what) or inspect.isclass(what) else type(what))
    assert text is not None and words in " ".join(text.split())
