"""RASP programs as transformers: tracr compiles them (Lindner et al. 2023, arXiv 2301.05062), and we take the weights over.

tracr and jax are needed to compile, never to use what was compiled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from types import ModuleType
from typing import Any

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.zoo.plain import PlainConfig, PlainTransformer
from interp.zoo.planted.writing import BOS


def tracr() -> tuple[ModuleType, ModuleType, ModuleType]:
    """tracr's compiler, its example programs and its RASP.

    Raises:
        InterpError: E601, it is not installed.
    """
    names = ("tracr.compiler.compiling", "tracr.compiler.lib", "tracr.rasp.rasp")
    try:
        compiling, lib, rasp = (import_module(name) for name in names)
    except ModuleNotFoundError as error:
        raise InterpError(
            "E601", f"compiling needs tracr: {error}", fix="pip install 'interp[compile]', or load the bundled model"
        ) from error
    return compiling, lib, rasp


def numbered_anew(rasp: Any) -> None:
    """Let RASP expressions count from 1: their numbers decide the order of the stream's dimensions."""
    rasp.RASPExpr._ids = count(1)


@dataclass(frozen=True)
class Compiled:
    """What tracr made of a program.

    Attributes:
        assembled: tracr's model.
        outputs: symbol -> dimension of the stream that says it; one dimension called `value` for a number.
    """

    assembled: Any
    outputs: dict[str, int]

    @property
    def labels(self) -> list[str]:
        """Names of the stream's dimensions."""
        return list(self.assembled.residual_labels)

    def run(self, tokens: Sequence[Any]) -> Float[np.ndarray, "pos output"]:
        """tracr's own output for one prompt, before it takes the largest; BOS is the first position."""
        found = self.assembled.apply([BOS, *tokens])
        return np.asarray(found.transformer_output[0])[:, list(self.outputs.values())]


def compile_program(program: Any, symbols: Sequence[Any], length: int) -> Compiled:
    """Compile a RASP expression for prompts of these symbols, up to `length` of them after BOS."""
    compiling, _, _ = tracr()
    assembled = compiling.compile_rasp_to_model(program, set(symbols), length, compiler_bos=BOS)
    labels = list(assembled.residual_labels)
    values = getattr(assembled.output_encoder, "encoding_map", None)
    if values is None:
        return Compiled(assembled, {"value": labels.index(program.label)})
    return Compiled(assembled, {str(value): labels.index(f"{program.label}:{value}") for value in values})


def port(compiled: Compiled, symbols: Sequence[Any], words: Sequence[str]) -> PlainTransformer:
    """The same weights as a `PlainTransformer` whose token ids are BOS, `words`, and one for any other word.

    tracr's matrices act on rows, torch's on columns. The output layer says each symbol with the size of its dimension.
    """
    assembled, params = compiled.assembled, compiled.assembled.params
    shape, encoder = assembled.model_config, assembled.input_encoder.encoding_map
    config = PlainConfig(
        vocab_size=len(words) + 2, hidden_size=len(compiled.labels), num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads, head_dim=shape.key_size, intermediate_size=shape.mlp_hidden_size,
        hidden_act="relu", max_position_embeddings=len(params["pos_embed"]["embeddings"]), norm="none", causal=False,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, stream=compiled.labels,
    )  # fmt: skip
    model: Any = PlainTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        tokens = {0: encoder[BOS]} | {words.index(str(symbol)) + 1: encoder[symbol] for symbol in symbols}
        table = tensor(params["token_embed"]["embeddings"])
        model.model.embed_tokens.weight[list(tokens)] = table[list(tokens.values())]
        model.model.embed_positions.weight.copy_(tensor(params["pos_embed"]["embeddings"]))
        for index, layer in enumerate(model.model.layers):
            write_layer(layer, params, f"transformer/layer_{index}")
        for symbol, dimension in compiled.outputs.items():
            model.lm_head.weight[words.index(symbol) + 1, dimension] = 1
    return model.eval()


def write_layer(layer: Any, params: Mapping[str, Mapping[str, Any]], prefix: str) -> None:
    """Copy attention and MLP of one layer."""
    attn, mlp = layer.self_attn, layer.mlp
    linears = {"attn/query": attn.q_proj, "attn/key": attn.k_proj, "attn/value": attn.v_proj,
               "attn/linear": attn.o_proj, "mlp/linear_1": mlp.up_proj, "mlp/linear_2": mlp.down_proj}  # fmt: skip
    for name, linear in linears.items():
        linear.weight.copy_(tensor(params[f"{prefix}/{name}"]["w"]).T)
        linear.bias.copy_(tensor(params[f"{prefix}/{name}"]["b"]))


def tensor(array: Any) -> Tensor:
    """A copy in float32."""
    return torch.from_numpy(np.array(array, dtype=np.float32))


def wiring(model: PlainTransformer) -> list[str]:
    """Edges of the program: a writer and a reader share a dimension of the stream, and the output depends on the reader.

    In what tracr compiles, each dimension holds one value of one variable, so this is the program's own graph.
    """
    writes, reads = dimensions(model)
    order = list(writes)
    useful, found = {"logits"}, []
    for writer in reversed(order):
        edges = [
            f"{writer}->{reader}"
            for reader, dims in reads.items()
            if reader.split(".")[0] in useful and comes_before(writer, reader) and bool((writes[writer] & dims).any())
        ]
        if edges:
            useful.add(writer)
        found += edges
    place = {reader: index for index, reader in enumerate(reads)}
    return sorted(found, key=lambda edge: (place[edge.split("->")[1]], order.index(edge.split("->")[0])))


Dimensions = dict[str, Bool[Tensor, " d_model"]]


def dimensions(model: PlainTransformer) -> tuple[Dimensions, Dimensions]:
    """Dimensions of the stream that each writer writes to and each reader reads; a head without scores reads values only."""
    body, n = model.model, model.config.num_attention_heads
    writes = {"embed": body.embed_tokens.weight, "pos_embed": body.embed_positions.weight}
    reads: dict[str, Tensor] = {}
    for index, layer in enumerate(body.layers):
        q, k, v = (
            rearrange(linear.weight, "(head d) model -> head d model", head=n)
            for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
        )
        out = rearrange(layer.self_attn.o_proj.weight, "model (head d) -> head d model", head=n)
        scores = einsum(q, k, "head d query, head d key -> head query key")
        values = einsum(v, out, "head d model, head d out -> head model out")
        for head in range(n):
            label = f"L{index}H{head}"
            reads |= {f"{label}.q": scores[head].T, f"{label}.k": scores[head], f"{label}.v": values[head].T}
            writes[label] = values[head]
        reads[f"M{index}"] = layer.mlp.up_proj.weight
        writes[f"M{index}"] = layer.mlp.down_proj.weight.T
    reads["logits"] = model.lm_head.weight
    return used(writes), used(reads)


def used(matrices: Mapping[str, Float[Tensor, "_ d_model"]]) -> Dimensions:
    """Columns that are not all zero."""
    return {name: (matrix != 0).any(0) for name, matrix in matrices.items()}


def comes_before(writer: str, reader: str) -> bool:
    """Whether what a writer adds to the stream is there when a reader reads it."""
    return stage(writer) < stage(reader.split(".")[0])


def stage(name: str) -> tuple[int, int]:
    """When a part of the model runs: its layer, then attention before MLP."""
    if name in ("embed", "pos_embed"):
        return (-1, 0)
    if name == "logits":
        return (10**6, 0)
    return (int(name[1:]), 1) if name.startswith("M") else (int(name[1:].split("H")[0]), 0)
