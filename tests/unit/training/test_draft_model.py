"""A small language model as a drafter: what it learns from, and what it leaves on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from paceline.config.settings import DrafterSettings
from paceline.core.errors import ResourceExhausted
from paceline.drafters import create_drafter
from paceline.drafters.description import DESCRIPTION, TargetIdentity, parse_description
from paceline.text.tokenizer import vocabulary_digest
from paceline.training.batches import Vocabulary, make_batch
from paceline.training.draft_model import TOKENIZER_FILES, config_for, train
from paceline.training.loop import Schedule
from paceline.training.students import ModelStudent
from paceline.training.subject import Subject, TrainOptions
from tests.support.full_disk import full_disk
from tests.support.tiny_models import write_tokenizer
from tests.support.tiny_texts import VOCAB, make_sample

WIDTH = 64
SAMPLES = [make_sample(20, 6, 2, seed=1), make_sample(9, 1, 0, seed=2), make_sample(30, 25, 17, seed=3)]
OPTIONS = TrainOptions(block=3, schedule=Schedule(minutes=0.0, steps=2, rows=64))


def make_subject(directory: Path | None = None) -> Subject:
    tokenizer = vocabulary_digest(directory) if directory else ""
    identity = TargetIdentity("target", "digest of the target", tokenizer, VOCAB, WIDTH, 3)
    embeddings = torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(3)) * 0.1
    return Subject(identity, embeddings, (2,), SAMPLES, SAMPLES[:2], directory)


def test_each_row_guesses_the_token_after_the_next_from_the_text_so_far() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(config_for(make_subject())).eval()
    batch = make_batch(SAMPLES, Vocabulary(range(VOCAB), VOCAB), 1)
    with torch.inference_mode():
        [found] = list(ModelStudent(model).places(batch, None))
        expected = []
        for sample in SAMPLES:
            seen = sample.tokens[sample.features_start + 1 : -1]
            logits = model(torch.tensor([seen])).logits[0]
            expected.append(logits[sample.prompt_length - 1 - sample.features_start :])
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-4)


def test_the_export_is_a_model_that_drafts_with_the_target_s_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    subject = make_subject(write_tokenizer(tmp_path / "target", VOCAB))
    train(subject, tmp_path / "small", OPTIONS, {"command": "none"}, lambda _: None)
    drafter = create_drafter(DrafterSettings(drafter="model", model=str(tmp_path / "small"), dtype="float32"))
    assert drafter.info.vocab_size == VOCAB
    assert drafter.info.tokenizer_digest == subject.identity.tokenizer_digest
    about = parse_description(tmp_path / "small" / DESCRIPTION)
    assert (about.kind, about.target) == ("model", subject.identity)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["small", "target"]


def test_without_a_tokenizer_none_is_written(tmp_path: Path) -> None:
    train(make_subject(), tmp_path / "small", OPTIONS, {}, lambda _: None)
    assert not {one.name for one in (tmp_path / "small").iterdir()} & set(TOKENIZER_FILES)


def test_it_starts_from_the_target_s_table(tmp_path: Path) -> None:
    """The first learning rates are so small that two steps hardly move it."""
    subject = make_subject()
    train(subject, tmp_path / "small", OPTIONS, {}, lambda _: None)
    table = LlamaForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32).model.embed_tokens.weight
    torch.testing.assert_close(table.detach(), subject.embeddings, rtol=0.01, atol=0.002)


def test_nothing_half_written_is_left_on_a_full_disk(tmp_path: Path) -> None:
    subject, out = make_subject(), tmp_path / "small"
    train(subject, out, OPTIONS, {"command": "first"}, lambda _: None)
    before = {one.name: one.read_bytes() for one in out.iterdir()}
    with full_disk(), pytest.raises(ResourceExhausted, match="free some space"):
        train(subject, out, OPTIONS, {"command": "second"}, lambda _: None)
    assert {one.name: one.read_bytes() for one in out.iterdir()} == before
    assert [one.name for one in tmp_path.iterdir() if one.is_dir()] == ["small"]
