"""``paceline train draft-model``: a small language model that learned from the target's texts, for drafter=model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from paceline.drafters.description import Description
from paceline.drafters.model import ModelDrafter
from paceline.drafters.trained import read_description, write_description, write_whole
from paceline.models.loading import choose_dtype, load
from paceline.models.runner import ModelRunner
from paceline.training.batches import Vocabulary
from paceline.training.evaluate import TOGETHER, Judged, judge
from paceline.training.loop import Course, Progress, Trainer
from paceline.training.students import QUIET, ModelStudent
from paceline.training.subject import Subject, Trained, TrainOptions, require_same_target

LAYERS, MAX_CONTEXT = 2, 8192
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
WEIGHTS = "model.safetensors"


def train(
    subject: Subject, out: Path, options: TrainOptions, record: dict[str, Any], tell: Callable[[Progress], None]
) -> Trained:
    """As the other kinds; it can say all that the target can, whatever ``options.vocab``."""
    torch.manual_seed(options.schedule.seed)
    model = _begin(subject, options.init)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    size = subject.identity.vocab_size
    course = Course(subject.train, Vocabulary(range(size), size), 1, options.schedule, options.weights)
    Trainer(ModelStudent(model), course, checkpoint).run(tell)
    verdicts: list[Judged] = []

    def fill(part: Path) -> None:
        _save(model, subject, part)
        verdicts.append(evaluate(part, subject, options.block))
        about = describe(subject, out.name, options.block, {**record, **verdicts[0].figures("held_out_")})
        write_description(part, about, (part / WEIGHTS).read_bytes())

    write_whole(out, fill)
    checkpoint.unlink(missing_ok=True)
    return Trained(out, sum(one.numel() for one in model.parameters()), 1.0, verdicts[0])


def config_for(subject: Subject) -> LlamaConfig:
    """As wide as the target, whose table of words it starts from."""
    width = subject.identity.hidden_size
    heads = max(1, width // 64)
    stops = tuple(subject.stop_token_ids)
    return LlamaConfig(
        vocab_size=subject.identity.vocab_size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        max_position_embeddings=MAX_CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=stops[0] if stops else None,
    )


def _begin(subject: Subject, init: Path | None) -> Any:  # noqa: ANN401
    """A model in float32: anew, or as an export left it."""
    if init is None:
        model: Any = LlamaForCausalLM(config_for(subject))
        _start(model, subject.embeddings)
        return model
    about = read_description(init, "model")
    require_same_target(about, subject, init)
    return load(init, torch.float32, max_context=MAX_CONTEXT).model


def _start(model: Any, embeddings: torch.Tensor) -> None:  # noqa: ANN401
    """From the target's table; layers add little at first."""
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(embeddings.float())
        for layer in model.model.layers:
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                linear.weight.mul_(QUIET)


def _save(model: Any, subject: Subject, part: Path) -> None:  # noqa: ANN401
    """Weights in bfloat16, and the target's tokenizer where it has one."""
    transformers_logging.disable_progress_bar()
    model.bfloat16().save_pretrained(part)
    for name in TOKENIZER_FILES:
        file = subject.directory / name if subject.directory is not None else None
        if file is not None and file.is_file():
            shutil.copyfile(file, part / name)


def evaluate(directory: Path, subject: Subject, block: int) -> Judged:
    """By real speculative decoding, with what was written."""
    longest = max(len(sample.tokens) for sample in subject.held_out) + block
    loaded = load(directory, choose_dtype("auto"), max_context=longest)
    drafter = ModelDrafter(ModelRunner(loaded, TOGETHER), torch.get_num_threads())
    return judge(drafter, subject.held_out, block)


def describe(subject: Subject, name: str, block: int, record: dict[str, Any]) -> Description:
    """For people, and for who asks what target it was trained for; the model itself serves any with its tokenizer."""
    config = config_for(subject)
    sizes = {"width": config.hidden_size, "layers": config.num_hidden_layers, "inner": config.intermediate_size}
    return Description(
        kind="model",
        name=name,
        target=subject.identity,
        taps=(),
        history=0,
        block=block,
        shape=sizes,
        calibration=((1.0, 0.0),),
        training=record,
    )
