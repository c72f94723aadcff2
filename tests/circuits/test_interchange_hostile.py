"""Malformed and hostile files: each is refused with the right code, names its place, and nothing of it is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.circuits.graph.graph import Graph, LayerShape
from interp.circuits.interchange.attribution_graph import read_attribution_graph, write_attribution_graph
from interp.circuits.interchange.graphml import LIMIT as XML_LIMIT
from interp.circuits.interchange.graphml import read_graphml, write_graphml
from interp.circuits.interchange.mib_json import read_mib_json, write_mib_json
from interp.circuits.interchange.mib_pt import read_mib_pt, write_mib_pt
from interp.circuits.interchange.reading import LIMIT
from interp.kernels.errors import InterpError

GRAPH = Graph.of_shape([LayerShape(4, 2)] * 2)
SCORES = GRAPH.matrix(np.arange(GRAPH.n_edges) / 8)
READERS = (read_mib_json, read_mib_pt, read_attribution_graph, read_graphml)
Data = dict[str, Any]
EDGE = "a0.h1->a1.h2<k>"


def code_of(read: Callable[..., Any], path: Path) -> str:
    """Code of the error that a file is refused with; it must name the file."""
    with pytest.raises(InterpError) as caught:
        read(path, GRAPH)
    assert str(path) in caught.value.where
    return caught.value.code


def put(*keys: Any, value: Any) -> Callable[[Data], None]:
    """A change of the value at the end of some keys."""

    def change(data: Data) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


def cut(*keys: Any) -> Callable[[Data], None]:
    """A removal of what is at the end of some keys."""

    def change(data: Data) -> None:
        for key in keys[:-1]:
            data = data[key]
        del data[keys[-1]]

    return change


BAD_MIB = {
    "no-cfg": (cut("cfg"), "E303"),
    "no-edges": (cut("edges"), "E303"),
    "unknown-field": (put("code", value="import os"), "E303"),
    "cfg-is-a-list": (put("cfg", value=[]), "E303"),
    "no-heads-in-cfg": (cut("cfg", "n_heads"), "E303"),
    "heads-as-text": (put("cfg", "n_heads", value="4"), "E303"),
    "heads-as-flag": (put("cfg", "n_heads", value=True), "E303"),
    "parallel-as-number": (put("cfg", "parallel_attn_mlp", value=0), "E303"),
    "another-model": (put("cfg", "n_layers", value=3), "E206"),
    "another-kind": (put("cfg", "parallel_attn_mlp", value=True), "E206"),
    "edges-as-list": (lambda data: data.update(edges=list(data["edges"])), "E303"),
    "nodes-as-objects": (put("nodes", value=[{"input": True}]), "E303"),
    "edges-as-numbers": (put("edges", value=3), "E303"),
    "nodes-as-null": (put("nodes", value=None), "E303"),
    "edge-missing": (cut("edges", EDGE), "E303"),
    "node-missing": (cut("nodes", "m1"), "E303"),
    "node-unknown": (put("nodes", "m2", value={"in_graph": True}), "E201"),
    "edge-unknown": (put("edges", "a9.h0->m1", value={"score": 0, "in_graph": False}), "E201"),
    "edge-backwards": (put("edges", "m1->a0.h0<q>", value={"score": 0, "in_graph": False}), "E201"),
    "node-flag": (put("nodes", "m1", "in_graph", value=1), "E303"),
    "node-score": (put("nodes", "m1", "score", value="1"), "E303"),
    "node-score-infinite": (put("nodes", "m1", "score", value=float("inf")), "E303"),
    "neurons": (put("nodes", "m1", "neurons", value=1), "E303"),
    "edge-as-number": (put("edges", EDGE, value=0.5), "E303"),
    "score-missing": (cut("edges", EDGE, "score"), "E303"),
    "score-text": (put("edges", EDGE, "score", value="0.5"), "E303"),
    "score-flag": (put("edges", EDGE, "score", value=True), "E303"),
    "score-null": (put("edges", EDGE, "score", value=None), "E303"),
    "score-nan": (put("edges", EDGE, "score", value=float("nan")), "E303"),
    "score-infinite": (put("edges", EDGE, "score", value=-float("inf")), "E303"),
    "score-beyond-floats": (put("edges", EDGE, "score", value=10**400), "E303"),
    "mark-text": (put("edges", EDGE, "in_graph", value="false"), "E303"),
    "mark-missing": (cut("edges", EDGE, "in_graph"), "E303"),
    "edge-with-more": (put("edges", EDGE, "hook", value="x"), "E303"),
}


@pytest.mark.parametrize("name", BAD_MIB)
def test_bad_fields_of_importance_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_mib_json(path, GRAPH, SCORES, d_model=8)
    data = json.loads(path.read_text())
    change, code = BAD_MIB[name]
    change(data)
    path.write_text(json.dumps(data))
    assert code_of(read_mib_json, path) == code


def test_the_place_of_a_bad_score_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_mib_json(path, GRAPH, SCORES, d_model=8)
    data = json.loads(path.read_text())
    data["edges"][EDGE]["score"] = "x"
    path.write_text(json.dumps(data))
    with pytest.raises(InterpError) as caught:
        read_mib_json(path, GRAPH)
    assert caught.value.where == f"{path} ['edges']['{EDGE}']['score']"
    assert caught.value.what == "a str, not a number"


BAD_LINKS = {
    "no-links": (cut("links"), "E303"),
    "another-version": (put("metadata", "generator", "version", value="2"), "E702"),
    "of-the-tool-itself": (cut("metadata", "generator"), "E702"),
    "another-schema": (put("metadata", "schema_version", value=2), "E702"),
    "metadata-as-list": (put("metadata", value=[]), "E303"),
    "other-places": (put("metadata", "prompt_tokens", value=["a", "b"]), "E206"),
    "tokens-as-text": (put("metadata", "prompt_tokens", value="ab"), "E303"),
    "nodes-as-object": (put("nodes", value={}), "E303"),
    "node-without-id": (cut("nodes", 0, "node_id"), "E303"),
    "node-unknown": (put("nodes", 0, "node_id", value="E_9_9"), "E201"),
    "node-missing": (cut("nodes", 0), "E303"),
    "node-twice": (lambda data: data["nodes"].append(data["nodes"][0]), "E303"),
    "link-missing": (cut("links", 0), "E303"),
    "link-twice": (lambda data: data["links"].append(data["links"][0]), "E303"),
    "link-unknown": (put("links", 0, "source", value="3_0_0"), "E201"),
    "link-to-a-list": (put("links", 0, "target", value=["x"]), "E303"),
    "input-unknown": (put("links", 0, "inputs", "x", value={"score": 0, "in_circuit": True}), "E201"),
    "inputs-as-list": (put("links", 0, "inputs", value=[]), "E303"),
    "weight-changed": (put("links", 5, "weight", value=99.0), "E303"),
    "weight-nan": (put("links", 5, "weight", value=float("nan")), "E303"),
    "score-nan": (lambda data: next(iter(data["links"][0]["inputs"].values())).update(score=float("nan")), "E303"),
    "mark-number": (lambda data: next(iter(data["links"][0]["inputs"].values())).update(in_circuit=1), "E303"),
}


@pytest.mark.parametrize("name", BAD_LINKS)
def test_bad_fields_of_attribution_graphs(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_attribution_graph(path, GRAPH, SCORES, model_name="tiny")
    data = json.loads(path.read_text())
    change, code = BAD_LINKS[name]
    change(data)
    path.write_text(json.dumps(data))
    assert code_of(read_attribution_graph, path) == code


NOT_JSON = {
    "empty": (b"", "E301"),
    "cut": (b'{"cfg": {', "E301"),
    "array": (b"[1, 2]", "E301"),
    "number": (b"3", "E301"),
    "python": (b"{'cfg': 1}", "E301"),
    "deep-lists": (b"[" * 200_000, "E301"),
    "deep-objects": (b'{"cfg":' * 200_000 + b"1" + b"}" * 200_000, "E301"),
    "long-number": (b'{"cfg": ' + b"9" * 100_000 + b"}", "E301"),
    "twice": (b'{"cfg": 1, "cfg": 2, "nodes": {}, "edges": {}}', "E303"),
    "twice-inside": (b'{"cfg": {}, "nodes": {}, "edges": {"a": {"score": 1, "score": 2}}}', "E303"),
    "latin-1": (b'{"cfg": "\xe9"}', "E302"),
    "utf-16": ('{"cfg": 1}'.encode("utf-16"), "E302"),
    "nul": (b"\x00" * 100, "E301"),
    "pickle": (pickle.dumps({"cfg": 1}), "E310"),
    "archive": (b"PK\x03\x04" + b"\x00" * 30, "E310"),
}


@pytest.mark.parametrize("name", NOT_JSON)
@pytest.mark.parametrize("read", [read_mib_json, read_attribution_graph])
def test_what_is_no_json(read: Callable[..., Any], name: str, tmp_path: Path) -> None:
    data, code = NOT_JSON[name]
    (tmp_path / "x.json").write_bytes(data)
    assert code_of(read, tmp_path / "x.json") == code


def test_keys_that_are_there_twice_never_win(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_mib_json(path, GRAPH, SCORES, d_model=8)
    text = path.read_text()
    path.write_text(text.replace('"edges": {', f'"edges": {{"{EDGE}": {{"score": 7, "in_graph": true}},', 1))
    assert code_of(read_mib_json, path) == "E303"


@pytest.mark.parametrize("read", READERS)
def test_paths_that_are_no_files(read: Callable[..., Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe", tmp_path / "x\0y"):
        assert code_of(read, path) == "E204"


@pytest.mark.parametrize("read", READERS)
def test_files_beyond_the_limit_are_not_read(read: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "huge"
    path.touch()
    os.truncate(path, (XML_LIMIT if read is read_graphml else LIMIT) + 1)
    assert code_of(read, path) == "E204"


@pytest.fixture
def tensors(tmp_path: Path) -> Data:
    """Content of a good file."""
    write_mib_pt(tmp_path / "good.pt", GRAPH, SCORES, d_model=8)
    return torch.load(tmp_path / "good.pt", weights_only=True)


def out_of_place(data: Data) -> None:
    data["edges_scores"][5, 0] = 1.0  # what the first layer writes does not reach its own queries


BAD_TENSORS = {
    "no-scores": (cut("edges_scores"), "E303"),
    "unknown-field": (put("optimizer", value=1), "E303"),
    "key-is-a-number": (put(3, value=1), "E303"),
    "scores-as-list": (lambda data: data.update(edges_scores=data["edges_scores"].tolist()), "E303"),
    "scores-of-another-shape": (lambda data: data.update(edges_scores=data["edges_scores"].T.clone()), "E206"),
    "scores-of-numbers": (lambda data: data.update(edges_scores=data["edges_scores"].long()), "E206"),
    "marks-as-numbers": (lambda data: data.update(edges_in_graph=data["edges_in_graph"].float()), "E206"),
    "nodes-cut": (lambda data: data.update(nodes_in_graph=data["nodes_in_graph"][:3]), "E206"),
    "score-nan": (lambda data: data["edges_scores"].fill_(float("nan")), "E303"),
    "score-infinite": (lambda data: data["edges_scores"].view(-1)[:1].fill_(float("inf")), "E303"),
    "score-without-edge": (out_of_place, "E201"),
    "names-in-another-order": (lambda data: data["src_nodes"].reverse(), "E303"),
    "name-unknown": (put("src_nodes", 0, value="embed"), "E201"),
    "name-twice": (lambda data: data["dst_nodes"].append("logits"), "E303"),
    "name-missing": (cut("dst_nodes", 0), "E303"),
    "name-is-a-number": (put("dst_nodes", 0, value=0), "E303"),
    "names-as-text": (put("src_nodes", value="input"), "E303"),
    "another-model": (put("cfg", "n_heads", value=5), "E206"),
    "cfg-as-tensor": (put("cfg", value=torch.zeros(2)), "E303"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_bad_fields_of_tensor_files(name: str, tensors: Data, tmp_path: Path) -> None:
    change, code = BAD_TENSORS[name]
    change(tensors)
    torch.save(tensors, tmp_path / "x.pt")
    assert code_of(read_mib_pt, tmp_path / "x.pt") == code


def test_a_tensor_file_that_is_a_list(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "x.pt")
    assert code_of(read_mib_pt, tmp_path / "x.pt") == "E303"


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def packed(tensors: Data, pickled: bytes | None = None, **options: Any) -> bytes:
    """An archive of torch.save, written anew with another pickle or other options."""
    buffer, out = io.BytesIO(), io.BytesIO()
    torch.save(tensors, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(out, "w", **options) as target:
        for name in source.namelist():
            replaced = pickled if pickled is not None and name.endswith("data.pkl") else source.read(name)
            target.writestr(name, replaced)
    return out.getvalue()


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_pickle_is_not_run(tensors: Data, tmp_path: Path, protocol: int) -> None:
    made, path = tmp_path / "made", tmp_path / "x.pt"
    evil = {**tensors, "cfg": Evil(made)}
    torch.save(evil, path, pickle_protocol=protocol)
    assert code_of(read_mib_pt, path) == "E310" and not made.exists()
    torch.save(evil, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    assert code_of(read_mib_pt, path) == "E310" and not made.exists()
    path.write_bytes(pickle.dumps(Evil(made), protocol=protocol))
    for read in READERS:
        assert code_of(read, path) == "E310" and not made.exists()
    torch.load(io.BytesIO(packed({"x": Evil(made)})), weights_only=False)
    assert made.exists()  # the file does what it is meant to do, where it is let


def test_pickles_that_ask_for_anything_but_tensors(tensors: Data, tmp_path: Path) -> None:
    class Sub(torch.nn.Parameter):
        pass

    path = tmp_path / "x.pt"
    for value in (torch.nn.Parameter(torch.zeros(3)), torch.zeros(3).to_sparse(), torch.float32, {1, 2}, Path("x")):
        torch.save({**tensors, "nodes_scores": value}, path)
        assert code_of(read_mib_pt, path) == "E310"


def opcodes(*steps: bytes) -> bytes:
    return b"\x80\x02" + b"".join(steps) + b"."


def text(name: str) -> bytes:
    return b"X" + struct.pack("<I", len(name)) + name.encode()


BAD_PICKLES = {
    "empty": b"",
    "cut": opcodes(b"}", text("cfg"))[:-4],
    "no-opcodes": b"\xff\xfe\x00",
    "os-system": opcodes(b"cos\nsystem\n", b"(", text("true"), b"tR"),
    "by-name-on-the-stack": opcodes(text("os"), text("system"), b"\x93", b"(", text("true"), b"tR"),
    "instance": opcodes(b"(", text("true"), b"ios\nsystem\n"),
    "torch-load": opcodes(b"ctorch.serialization\nload\n", b"(", text("x"), b"tR"),
    "eval": opcodes(b"c__builtin__\neval\n", b"(", text("1"), b"tR"),
    "extension": opcodes(b"\x82\x01"),
    "deep-tuples": opcodes(b"}", b"K\x01", b"\x85" * 1_000_000, b"K\x01", b"s"),
    "deep-lists": opcodes(b"(" * 100_000, b"l" * 100_000),
    "deep-memory": opcodes(b"}q\x00", b"(" * 100_000, b"h\x00", b"t" * 100_000),
    "long": opcodes(b"}" * (5 * 2**20)),
    "stack-underflow": opcodes(b"R"),
    "no-memory": opcodes(b"h\x07"),
}


@pytest.mark.parametrize("name", BAD_PICKLES)
def test_pickles_made_by_hand(name: str, tensors: Data, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(packed(tensors, BAD_PICKLES[name]))
    assert code_of(read_mib_pt, tmp_path / "x.pt") == "E310"


@pytest.mark.parametrize("pickled", [opcodes(b"]" * 100_000, b"a" * 99_999), opcodes(text("cfg")), opcodes(b"N")])
def test_pickles_of_something_else(pickled: bytes, tensors: Data, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(packed(tensors, pickled))
    assert code_of(read_mib_pt, tmp_path / "x.pt") == "E303"


def test_what_a_pickle_asks_for_is_named(tensors: Data, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(packed(tensors, BAD_PICKLES["os-system"]))
    with pytest.raises(InterpError, match="its pickle asks for 'os system'"):
        read_mib_pt(tmp_path / "x.pt", GRAPH)


def test_archives_that_torch_did_not_write(tensors: Data, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    good = packed(tensors)
    path.write_bytes(good)
    assert np.array_equal(read_mib_pt(path, GRAPH).scores, SCORES)
    longer = good.replace(b"PK\x05\x06", b"PK\x05\x07")
    numbers = io.BytesIO()
    np.savez(numbers, x=np.zeros(3))
    bomb = packed({**tensors, "cfg": "\0" * 2**20}, compression=zipfile.ZIP_DEFLATED)
    for data in (b"", b"PK", good[:-30], good[: len(good) // 2], longer, numbers.getvalue(), bomb, b"\x89HDF"):
        path.write_bytes(data)
        assert code_of(read_mib_pt, path) == "E310"


def test_a_storage_shorter_than_its_tensor(tmp_path: Path) -> None:
    """The pickle says a thousand numbers, the record beside it holds six."""
    buffer = io.BytesIO()
    torch.save(OrderedDict(x=torch.arange(6.0)), buffer)
    with zipfile.ZipFile(buffer) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        pickled = archive.read(name)
    lying = pickled.replace(b"K\x06", b"M\xe8\x03")
    assert lying != pickled
    (tmp_path / "x.pt").write_bytes(packed(OrderedDict(x=torch.arange(6.0)), lying))
    assert code_of(read_mib_pt, tmp_path / "x.pt") == "E310"


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
BAD_XML = {
    "empty": ("", "E301"),
    "cut": ("<graphml><graph>", "E301"),
    "html": ("<p>hello</p>", "E702"),
    "graph-alone": ("<graph/>", "E702"),
    "of-another-tool": ("<graphml><graph><node id='a'/></graph></graphml>", "E702"),
    "another-version": ("<graphml><graph><data key='schema'>2</data></graph></graphml>", "E702"),
    "no-edges": ("<graphml><graph><data key='schema'>1</data></graph></graphml>", "E303"),
    "document-type": ("<!DOCTYPE graphml><graphml/>", "E303"),
    "entities": (f"{LAUGHS}<graphml>&b;</graphml>", "E303"),
    "file": ('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><graphml>&a;</graphml>', "E303"),
    "unknown-entity": ("<graphml>&a;</graphml>", "E301"),
    "deep": ("<graphml>" + "<g>" * 100_000, "E301"),
    "claims-utf-16": ('<?xml version="1.0" encoding="utf-16"?><graphml/>', "E702"),
}


@pytest.mark.parametrize("name", BAD_XML)
def test_what_is_no_graphml_of_ours(name: str, tmp_path: Path) -> None:
    content, code = BAD_XML[name]
    (tmp_path / "x").write_text(content)
    assert code_of(read_graphml, tmp_path / "x") == code


def test_graphml_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(f"{LAUGHS}<graphml/>".encode("utf-16"))
    assert code_of(read_graphml, tmp_path / "x") == "E302"


def test_changed_edges_of_graphml(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_graphml(path, GRAPH, SCORES, GRAPH.full)
    lines = path.read_text().splitlines()
    number = next(number for number, line in enumerate(lines) if 'id="L0H1-&gt;M1"' in line)
    edge = lines[number]
    score = SCORES[GRAPH.edge("L0H1->M1")].item()
    for changed, code in (
        ("", "E303"),
        (edge * 2, "E303"),
        (edge.replace('id="L0H1-&gt;M1"', 'id="M1-&gt;M0"'), "E201"),
        (edge.replace('source="L0H1"', 'source="L0H0"'), "E303"),
        (edge.replace(f">{score}<", ">nan<"), "E303"),
        (edge.replace(f">{score}<", ">1e999<"), "E303"),
        (edge.replace(f">{score}<", ">one<"), "E303"),
        (edge.replace('<data key="score">', '<data key="other">'), "E303"),
        (edge.replace(">true<", ">maybe<"), "E303"),
    ):
        assert changed != edge
        path.write_text("\n".join([*lines[:number], changed, *lines[number + 1 :]]))
        assert code_of(read_graphml, path) == code
    path.write_text("\n".join(lines))
    assert np.array_equal(read_graphml(path, GRAPH).scores, SCORES)
