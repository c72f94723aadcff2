"""What the interpreter cannot say: that the kernels compile for a GPU, on any machine, and that triton stays away."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from interp.kernels.backends.triton.launch import SHARED_BYTES

pytest.importorskip("triton")

COMPILE = """
import json, os, re, subprocess, sys, tempfile
os.environ["TRITON_INTERPRET"] = "0"
os.environ["TRITON_CACHE_DIR"] = {cache!r}

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class Hopper:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


driver.set_active(Hopper())

from interp.kernels.backends.primitives import Request, Rows
from interp.kernels.backends.triton import kernel, launch, recurrence

found = {{}}


def compile_only(kernel, grid, device, arguments):
    done = kernel.warmup(**arguments, enable_fp_fusion=True, grid=grid)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(done.asm["cubin"])
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    stack = int(re.search(r"STACK:(\\d+)", usage).group(1))
    words = [word for word in ("wgmma", "mma.sync", "cp.async") if word in done.asm["ptx"]]
    found[kernel.fn.__name__] = [words, stack, done.metadata.shared]


launch.launch = recurrence.launch = compile_only
launch.unusable = kernel.unusable = lambda device: None
launch.interpreting = lambda: True  # the first tile, since none can be timed


def inputs(d, *kinds):
    return [torch.zeros(1, 2, 256, d, dtype=torch.bfloat16) for _ in kinds]


def attention(d, **asked):
    i = torch.arange(256, dtype=torch.int32).reshape(1, 1, -1)
    none = torch.zeros_like(i)
    asked = {{"entropy": True, "squares": True, "functionals": torch.zeros(1, 1, 256, 2), **asked}}
    request = Request(*inputs(d, "q", "k", "v"), d**-0.5, Rows(none, i + 1, none, none), **asked)
    kernel.run(request)


{work}
print(json.dumps(found))
"""

Python = Callable[..., str]


def compiled(python: Python, tmp_path: Path, work: str) -> dict[str, tuple[list[str], int, int]]:
    """Instructions, bytes of stack and bytes of shared memory of each kernel that the work launches."""
    return json.loads(python(COMPILE.format(cache=str(tmp_path), work=work)).splitlines()[-1])


def test_attention_compiles_for_a_gpu(python: Python, tmp_path: Path) -> None:
    found = compiled(python, tmp_path, "attention(64)")
    assert set(found) == {"forward_kernel"}
    words, stack, shared = found["forward_kernel"]
    assert {"wgmma", "cp.async"} <= set(words) and stack == 0 and shared < SHARED_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("d", [64, 128])
def test_every_kernel_compiles_for_a_gpu_without_spilling(python: Python, tmp_path: Path, d: int) -> None:
    everything = "columns=torch.ones(1, 1, 1, 256), band=torch.ones(1, 2)"
    found = compiled(python, tmp_path, f"attention({d}, {everything})")
    for work in ("recurrence.decay(*inputs({d}, *'qkv'), torch.ones(2))", "recurrence.gated(*inputs({d}, *'qkvg'))"):
        found |= {work: compiled(python, tmp_path, work.format(d=d))["recurrence_kernel"]}
    assert len(found) == 5
    for name, (words, stack, shared) in found.items():
        assert {"wgmma", "mma.sync"} & set(words) and stack == 0 and shared < SHARED_BYTES, (name, words, stack, shared)


def test_asking_whether_triton_can_does_not_import_it(python: Python) -> None:
    code = """
    import sys, os
    os.environ["TRITON_INTERPRET"] = "0"
    import torch
    from interp.kernels.backends.primitives import Request, Rows
    from interp.kernels.backends.triton import kernel
    x, i = torch.zeros(1, 1, 4, 16), torch.zeros(1, 1, 4, dtype=torch.int32)
    print(kernel.supports(Request(x, x, x, 1.0, Rows(i, i, i, i))))
    assert "triton" not in sys.modules
    """
    said = python("import textwrap; exec(textwrap.dedent(" + repr(code) + "))")
    assert "CUDA" in said and "TRITON_INTERPRET" in said
