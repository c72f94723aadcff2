"""Importance files of the MIB benchmark as an archive of tensors (`.pt`).

Layout of `Graph.to_pt` in hannamw/EAP-IG, `src/eap/graph.py`: a dict of `cfg`, `src_nodes`, `dst_nodes` (names),
`edges_scores` and `edges_in_graph` [writer reader], and `nodes_in_graph` [writer].

Such a file holds a pickle, which can run code when it is read. Here the pickle is first looked through, without being
run, for anything but tensors and plain values, and then read by torch's own reader of weights alone.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.circuits.files import write_atomic
from interp.circuits.graph.graph import Edges, Graph, Scores
from interp.circuits.interchange.content import Imported, checked
from interp.circuits.interchange.mib import MibLayout
from interp.circuits.interchange.mib_json import NEURONS, NODE_SCORES
from interp.circuits.interchange.reading import LIMIT, Field, read_bytes
from interp.circuits.interchange.twin import DrawnScores
from interp.kernels.errors import InterpError

REQUIRED = ("cfg", "src_nodes", "dst_nodes", "edges_scores", "edges_in_graph", "nodes_in_graph")
OPTIONAL = ("nodes_scores", "neurons_in_graph", "neurons_scores")
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ALLOWED = frozenset([
    "torch._utils _rebuild_tensor_v2", "collections OrderedDict",
    *(f"torch {kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16", "Bool", "Long", "Int")),
])  # fmt: skip
"""All that the pickle of a dict of tensors asks for."""
PICKLE_LIMIT = 4 * 2**20
"""Bytes; it names the nodes of a graph, the tensors lie beside it."""
MOST_TUPLES = 256
"""A tensor takes four. Tuples inside one another, a million deep, end the process that makes a key of them."""
UNUSED = frozenset(["STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "BUILD", "PERSID"])
"""Steps of a pickle that make other objects; `torch.save` of tensors needs none of them."""


def write_mib_pt(
    path: str | Path, graph: Graph, scores: Scores, edges: Edges | None = None, *, d_model: int, model_name: str = ""
) -> tuple[str, ...]:
    """Write scores, and a circuit where there is one; arguments, sentences and errors of `write_mib_json`.

    Scores keep their type, float32 or float64.
    """
    layout = MibLayout.of(graph)
    scores, edges = checked(graph, scores, edges)
    marked = layout.twin.spread_edges(edges)
    content = {
        "cfg": layout.cfg(d_model, model_name),
        "src_nodes": list(layout.writers),
        "dst_nodes": list(layout.readers),
        "edges_scores": torch.from_numpy(layout.twin.spread(scores)[0].copy()),
        "edges_in_graph": torch.from_numpy(marked[0].copy()),
        "nodes_in_graph": torch.from_numpy(layout.nodes_in_graph(marked)),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())
    return layout.notes("write")


def read_mib_pt(path: str | Path, graph: Graph) -> Imported:
    """Scores (float64 where the file has it, else float32) and circuit of a file, on our graph of the same model.

    Marks where their graph has no edge are passed over and counted in the notes: their node-level circuits have them.

    Raises:
        InterpError: E204 no file; E310 not an archive of tensors and plain values alone; E303 a field is missing,
            unknown, of a wrong type or not finite; E206 a tensor of another shape or type, or a file of another graph;
            E201 a node or edge that the graph does not have; E205 a graph that the format cannot hold.
    """
    layout = MibLayout.of(graph)
    file = Field(_load(Path(path)), Path(path))
    file.only(REQUIRED, OPTIONAL)
    layout.check_cfg(file.get("cfg"))
    for key, names in (("src_nodes", layout.writers), ("dst_nodes", layout.readers)):
        _check_names(file.get(key), names)
    shape = (len(layout.writers), len(layout.readers))
    scores = _array(file.get("edges_scores"), shape, FLOATS)[None]
    marks = _array(file.get("edges_in_graph"), shape, (torch.bool,))[None]
    _array(file.get("nodes_in_graph"), shape[:1], (torch.bool,))
    _check_scores(file.get("edges_scores"), scores, layout)
    edges = marks & layout.drawn.full
    beyond = int((marks & ~edges).sum())
    notes = {
        NODE_SCORES: "nodes_scores" in file.value,
        NEURONS: any(key in file.value for key in OPTIONAL[1:]),
        f"{beyond} marks stand where there is no edge and are passed over": beyond > 0,
    }
    return layout.read(scores, edges, notes, file)


def _load(path: Path) -> Any:
    """The object of an archive that holds tensors and plain values alone (E310)."""
    data = read_bytes(path)
    _look_through(data, path)
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive makes torch raise errors of many types
        raise _refused(path, f"torch does not read it as weights alone: {str(error)[:200]}") from error


def _look_through(data: bytes, path: Path) -> None:
    """Raise E310 unless the file is an archive, not packed, whose one pickle asks for nothing but tensors."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise _refused(path, "its entries are packed, which torch.save never does")
            if sum(entry.file_size for entry in entries) > LIMIT or len(pickles) != 1:
                raise _refused(path, "its entries are not those of torch.save")
            if pickles[0].file_size > PICKLE_LIMIT:
                raise _refused(path, f"its pickle has more than {PICKLE_LIMIT} bytes")
            steps = list(pickletools.genops(archive.read(pickles[0])))
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise _refused(path, f"not an archive that torch.save wrote: {error}") from error
    for step, argument, _ in steps:
        if step.name in UNUSED or (step.name == "GLOBAL" and argument not in ALLOWED):
            raise _refused(path, f"its pickle asks for {str(argument or step.name)[:80]!r}, which can run code")
    if sum(step.name.startswith("TUPLE") for step, _, _ in steps) > MOST_TUPLES:
        raise _refused(path, "its pickle nests more than a dict of tensors does")


def _refused(path: Path, what: str) -> InterpError:
    fix = "ask for the JSON form of the file, or write it anew with torch.save of plain tensors, lists and numbers"
    return InterpError("E310", what, where=str(path), fix=fix)


def _check_names(field: Field, names: tuple[str, ...]) -> None:
    field.names(names, "node")
    if field.sequence() != list(names):
        field.refuse("the nodes stand in another order than in their graph")


def _array(field: Field, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> np.ndarray:
    """A tensor as an array of its own; the narrow float types as float32."""
    tensor = field.value
    if type(tensor) is not Tensor or tensor.layout is not torch.strided:
        field.refuse(f"a {type(tensor).__name__}, not a plain tensor")
    if tensor.shape != shape or tensor.dtype not in dtypes:
        expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        field.refuse(f"{tensor.dtype} of shape {tuple(tensor.shape)}, not {expected} of shape {shape}", code="E206")
    is_narrow = tensor.is_floating_point() and tensor.dtype is not torch.float64
    return np.array((tensor.float() if is_narrow else tensor).detach().numpy())


def _check_scores(field: Field, scores: DrawnScores, layout: MibLayout) -> None:
    """Raise E303 for a score that is not finite, E201 for one where their graph has no edge."""
    for wrong, code, what in (
        (~np.isfinite(scores), "E303", "is not finite"),
        ((scores != 0) & ~layout.drawn.full, "E201", "is not 0, and there is no such edge"),
    ):
        if wrong.any():
            _, writer, reader = np.argwhere(wrong)[0]
            field.refuse(f"the score of {layout.writers[writer]}->{layout.readers[reader]} {what}", code=code)
