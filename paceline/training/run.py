"""The stages of ``paceline train``: regenerate, train, evaluate, export; each goes on where it was interrupted."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from paceline import __version__
from paceline.core.errors import InvalidRequest, ResourceExhausted
from paceline.drafters.trained import require_place
from paceline.models.loading import LoadedModel, choose_dtype, load, prepare
from paceline.models.runner import ModelRunner
from paceline.training import trainer
from paceline.training.distil import DistilOptions, Made, distil, prompt_ids
from paceline.training.loop import Progress
from paceline.training.prompts import count_sources, read_training_prompts
from paceline.training.recall import digest_of, logged_texts, recall_all
from paceline.training.shards import shard_files
from paceline.training.subject import Subject, Trained, TrainOptions, default_taps, identity, read_samples

NUM_SLOTS = 96
"""Continuations at once: beyond, a step costs in proportion."""
MAX_CONTEXT = 1024
"""Prompt and answer; longer prompts lose their beginning."""
MANIFEST = "data.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do."""

    kind: str
    target: str
    prompts: tuple[Path, ...]
    """Empty: train on what is in ``data``."""
    out: Path
    data: Path
    distil: DistilOptions
    train: TrainOptions
    command: str
    """For the record."""
    log: Path | None = None
    """Directory of verdicts to learn from, instead of prompts."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told of progress."""

    stage: Callable[[str], None]
    made: Callable[[Made], None]
    step: Callable[[Progress], None]


def run(plan: Plan, listener: Listener) -> Trained:
    """Everything. Raises ``PacelineError`` with the remedy; nothing half-written is left at ``plan.out``."""
    train_kind = trainer(plan.kind)
    require_place(plan.out)
    listener.stage(f"reading the target {plan.target}")
    directory = prepare(plan.target)
    loaded = load(directory, choose_dtype("auto"), max_context=MAX_CONTEXT)
    target, stops = identity(loaded), loaded.stop_token_ids
    embeddings = loaded.model.get_input_embeddings().weight.detach().clone()
    sources = _regenerate(plan, loaded, directory, listener)
    del loaded
    train, held = read_samples(plan.data)
    listener.stage(f"training on {len(train)} texts, {len(held)} held out")
    record = {"command": plan.command, "paceline": __version__, "torch": torch.__version__, "prompts": sources}
    subject = Subject(target, embeddings, stops, train, held, directory)
    trained: Trained = train_kind(subject, plan.out, plan.train, record, listener.step)
    return trained


def _regenerate(plan: Plan, loaded: LoadedModel, directory: Path, listener: Listener) -> dict[str, int]:
    """Texts of the target in ``plan.data``; what they were made from."""
    manifest = plan.data / MANIFEST
    if plan.log is not None:
        return _recall(plan, plan.log, loaded, listener)
    if not plan.prompts:
        return _sources(manifest, loaded.digest)
    prompts = read_training_prompts(plan.prompts)
    sources = count_sources(prompts)
    if manifest.is_file():
        _sources(manifest, loaded.digest)
    _write(manifest, {"target": loaded.digest, "prompts": sources})
    listener.stage(f"the target answers {len(prompts)} prompts")
    ids: Sequence[Any] = prompt_ids(prompts, directory)
    taps = default_taps(loaded.model.config.get_text_config().num_hidden_layers)
    distil(ModelRunner(loaded, NUM_SLOTS), ids, plan.data, plan.distil, taps=taps, tell=listener.made)
    return sources


def _recall(plan: Plan, log: Path, loaded: LoadedModel, listener: Listener) -> dict[str, int]:
    """What is in the log by now, in ``plan.data``; data of a log that has grown are made anew."""
    if plan.prompts:
        raise InvalidRequest("from-log: a log is learned from instead of prompts; give one of both.")
    manifest = plan.data / MANIFEST
    known = _log_digest(manifest, plan.data)
    taps = default_taps(loaded.model.config.get_text_config().num_hidden_layers)
    target = loaded.digest
    runner = ModelRunner(loaded, 1)
    texts = logged_texts(log, runner.loaded, listener.stage)
    sources, digest = {"verdict log": len(texts)}, digest_of(texts)
    if known == f"{target} {digest}":
        return sources
    _write(manifest, {"target": target, "prompts": sources, "log": ""})
    for file in shard_files(plan.data):
        file.unlink()
    listener.stage(f"the target reads {len(texts)} texts of the log again")
    recall_all(runner, texts, plan.data, taps=taps, tell=listener.made)
    _write(manifest, {"target": target, "prompts": sources, "log": f"{target} {digest}"})
    return sources


def _log_digest(manifest: Path, data: Path) -> str:
    """What log the data are of; empty for a new place. Raises ``InvalidRequest`` for data that no log made."""
    if not manifest.is_file() and not shard_files(data):
        return ""
    try:
        return str(json.loads(manifest.read_text("utf-8"))["log"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"data: {data} was not made from a log; choose another --data.") from error


def _write(manifest: Path, content: dict[str, Any]) -> None:
    part = manifest.with_suffix(".part")
    try:
        manifest.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content, indent=2), "utf-8")
        os.replace(part, manifest)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise ResourceExhausted(
            f"data: {manifest} can't be written ({error}); free some space, or choose another --data."
        ) from error


def _sources(manifest: Path, digest: str) -> dict[str, int]:
    """Raises ``InvalidRequest`` unless the data were made by this target."""
    try:
        content = json.loads(manifest.read_text("utf-8"))
        target, prompts = content["target"], dict(content["prompts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"data: {manifest} can't be read ({error}); give --prompts, or another --data.") from error
    if target != digest:
        raise InvalidRequest(f"data: {manifest.parent} was made by another target; choose another --data.")
    return prompts
