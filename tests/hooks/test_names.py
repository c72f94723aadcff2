"""Head labels, hook-point names, and what is said about wrong ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.hooks.names import (
    POINTS,
    TOWER_POINTS,
    HeadId,
    PointId,
    match_names,
    parse_head,
    parse_heads,
    point_name,
    split_heads,
)
from interp.kernels.errors import InterpError

SHAPE = {"": (4, 0, 2), "vision": (3, 3)}
heads = st.builds(HeadId, st.sampled_from(["", "vision", "audio_tower"]), st.integers(0, 999), st.integers(0, 999))


@given(heads)
def test_a_label_reads_back_as_its_head(head: HeadId) -> None:
    assert parse_head(head.label) == head
    assert parse_head(f"  {head} ") == head
    assert parse_head(head) is head


@given(heads)
def test_every_way_to_write_a_head_means_the_same(head: HeadId) -> None:
    prefix = f"{head.tower}." if head.tower else ""
    for written in (f"{head.layer}.{head.head}", f"a{head.layer}.h{head.head}", f"{head.layer}.h{head.head}"):
        assert parse_head(prefix + written) == head
    assert parse_head((head.layer, head.head)) == HeadId("", head.layer, head.head)


@given(st.lists(heads, min_size=1, max_size=6))
def test_a_written_list_reads_back(chosen: list[HeadId]) -> None:
    assert split_heads(",".join(map(str, chosen))) == tuple(chosen)
    assert split_heads(chosen) == tuple(chosen)


@given(st.text(alphabet="LHah.,-0123456789 *x", max_size=8))
def test_any_text_is_heads_or_a_named_mistake(text: str) -> None:
    try:
        found = parse_heads(text, SHAPE)
    except InterpError as error:
        assert error.code in ("E201", "E202", "E203", "E401")
    else:
        assert found and all(head.head < SHAPE[head.tower][head.layer] for head in found)


@pytest.mark.parametrize(
    "wrong", ["", "L5", "H1", "L5H", "L5 H1", "five", "5", "L5.1", "L1H1H1", "LLH1", "L1H1x", "1.2.3"]
)
def test_a_text_that_is_no_head_is_refused_with_an_example(wrong: str) -> None:
    with pytest.raises(InterpError, match="E202") as caught:
        parse_head(wrong)
    assert "L5H1" in caught.value.fix


@pytest.mark.parametrize("negative", ["L-1H0", "L0H-1", "-1.0", "a0.h-1", (-1, 0), (0, -1)])
def test_negative_indices_are_refused_and_never_count_from_the_end(negative: str | tuple[int, int]) -> None:
    with pytest.raises(InterpError, match="E203"):
        parse_head(negative)
    with pytest.raises(InterpError, match="E203"):
        parse_heads(negative, SHAPE)


def test_negative_layers_of_a_group_are_refused() -> None:
    with pytest.raises(InterpError, match="E203"):
        parse_heads("L-1H*", SHAPE)


@pytest.mark.parametrize(
    ("spec", "labels"),
    [
        ("all", "L0H0 L0H1 L0H2 L0H3 L2H0 L2H1"),
        ("vision.all", "vision.L0H0 vision.L0H1 vision.L0H2 vision.L1H0 vision.L1H1 vision.L1H2"),
        ("L0H*", "L0H0 L0H1 L0H2 L0H3"),
        ("2.*, vision.L1H2", "L2H0 L2H1 vision.L1H2"),
        ("a2.h*", "L2H0 L2H1"),
        ("L2H1,L0H3,L2H1,2.1", "L2H1 L0H3"),
        ((0, 1), "L0H1"),
        ([(0, 1), "L2H*", HeadId("vision", 0, 0)], "L0H1 L2H0 L2H1 vision.L0H0"),
        (HeadId("", 2, 0), "L2H0"),
    ],
)
def test_lists_keep_their_order_and_lose_repeats(spec: object, labels: str) -> None:
    assert " ".join(map(str, parse_heads(spec, SHAPE))) == labels  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "code", "said"),
    [
        ("L0H4", "E203", "0 to 3"),
        ("L3H0", "E203", "0 to 2"),
        ("vision.L2H0", "E203", "0 to 1"),
        ("L1H0", "E401", "0, 2"),
        ("L1H*", "E401", "0, 2"),
        ("audio.L0H0", "E201", "vision"),
        ("audio.all", "E201", "vision"),
        ("", "E202", "L5H1"),
        (" , ", "E202", "L5H1"),
    ],
)
def test_heads_that_the_model_lacks_are_refused_with_what_it_has(spec: str, code: str, said: str) -> None:
    with pytest.raises(InterpError, match=code) as caught:
        parse_heads(spec, SHAPE)
    assert said in caught.value.fix


def test_point_names_are_those_of_transformer_lens() -> None:
    assert point_name("attn.hook_z", 3) == "blocks.3.attn.hook_z"
    assert point_name("hook_resid_pre", 0, "vision") == "vision.blocks.0.hook_resid_pre"
    assert PointId("", "hook_embed").name == "hook_embed"
    assert PointId("vision", "ln_final.hook_scale").name == "vision.ln_final.hook_scale"
    assert PointId("", "attn.hook_k", 1).axes == "batch pos kv_head d_head"
    assert set(POINTS) > TOWER_POINTS


KNOWN = [point_name(kind, layer) for layer in range(3) for kind in ("attn.hook_z", "hook_resid_pre")] + ["hook_embed"]


def test_globs_keep_the_order_of_the_model() -> None:
    assert match_names(["*resid_pre", "blocks.[02].attn.hook_z"], KNOWN) == [
        "blocks.0.attn.hook_z",
        "blocks.0.hook_resid_pre",
        "blocks.1.hook_resid_pre",
        "blocks.2.attn.hook_z",
        "blocks.2.hook_resid_pre",
    ]
    assert match_names("*", KNOWN) == KNOWN


@pytest.mark.parametrize("names", ["blocks.*.attn.hook_zz", ["*hook_z", "blocks.7.*"], "", "BLOCKS.0.attn.hook_z"])
def test_a_glob_that_matches_nothing_is_an_error(names: str | list[str]) -> None:
    with pytest.raises(InterpError, match="E201"):
        match_names(names, KNOWN)


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(InterpError, match="E201") as caught:
        match_names("blocks.1.hook_z", KNOWN)
    assert "blocks.1.attn.hook_z" in caught.value.fix
