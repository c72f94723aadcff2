"""A circuit discovery in a folder that survives whatever happens to the process.

Scores of each batch of prompts, values of each lot of circuits, the circuit under each further replacement and what
scorers say are kept one by one as they are made; a process that goes on reads them and computes the rest. Methods that
decide one edge after the other, or learn (ACDC, growth, pruning), score all prompts in one go: that is one answer, which
is kept once it is made, and begun again where the run was ended before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from interp.ablation.sweep import one_speed
from interp.circuits.files import digest, plain
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.discovery.asked import Asked, as_data
from interp.discovery.result import Circuit
from interp.heads.run import described, tokens_digest
from interp.sweeps.code import FOLDERS, code_version
from interp.sweeps.ledger import Head
from interp.sweeps.lock import locked
from interp.sweeps.run import resumable, stopped_by_signals
from interp.tasks.base import Task

if TYPE_CHECKING:
    from interp.discovery.discovery import Discovery

CODE = ("circuits", "discovery", "heads", "passport", *FOLDERS)
"""Folders whose code decides the numbers of a circuit."""


def on_disk(
    discovery: Discovery,
    make: Callable[[], Circuit],
    path: Path,
    judge: Task | None,
    options: Mapping[str, Any],
    *,
    overwrite: bool,
    resume: bool,
) -> Circuit:
    """Compute and keep; or go on with what is kept.

    Args:
        make: the result of the discovery.
        judge: as it was given.
        options: arguments of `interp.circuit` by name.

    Raises:
        InterpError: E204 the folder holds something else, or nothing to go on with; E602 it cannot be written; E604
            another process works on it; E701 its plan was changed; E703 something differs from the plan.
    """
    if not resume:
        RunFolder.check(path, overwrite=overwrite)
    threads = int(Head.read(path).config["threads"]) if resume else torch.get_num_threads()
    with one_speed(threads), resumable(path):
        config = question(discovery, options, threads)
        asked = Asked.of(discovery.model, discovery.chooses.task, judge, options, threads)
        head = Head(Circuit.kind, config, None if asked is None else asked.to_dict())
        with locked(path), stopped_by_signals():
            if resume:
                discovery.ledger.go_on(path, head)
            else:
                discovery.ledger.begin(path, head, overwrite=overwrite)
            found = make()
            found.write(RunWriter(path))
            discovery.ledger.end()
    return found


def question(discovery: Discovery, options: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Everything that decides the numbers; what a run refuses at once is refused here, before a folder is begun."""
    sides = {"chooses": discovery.chooses, "judges": discovery.judges}
    discovery.plan, discovery.proof  # noqa: B018  (they refuse)
    ends = np.concatenate([end.ravel() for end in discovery.ends])
    found: dict[str, Any] = plain(
        {
            "code": code_version(CODE),
            "model": described(discovery.model),
            "prompts": {
                name: {**side.record(), "start": side.start, "sha256": tokens_digest(side.pairs)}
                for name, side in sides.items()
            },
            "asked": {name: value for name, value in as_data(options).items() if name != "command"},
            "scores_of": discovery.request.method.source,
            "ends_sha256": digest(ends.astype("<f8").tobytes()),
            "threads": threads,
        }
    )
    return found
