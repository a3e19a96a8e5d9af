"""The network in training: what it is given at each place, and how it starts."""

from __future__ import annotations

import dataclasses

import torch

from paceline.drafters.mtp_network import MtpNetwork, NetworkShape
from paceline.training.batches import Vocabulary, make_batch
from paceline.training.students import QUIET, MtpStudent, start_mtp
from tests.support.tiny_texts import FEATURES, VOCAB, make_sample

BLOCK = 3
KNOWN = [token for token in range(VOCAB) if token % 4]
VOCABULARY = Vocabulary(KNOWN, VOCAB)
SHAPE = NetworkShape(len(KNOWN), FEATURES, taps=3, width=16, heads=2, mlp=24, cell=16, window=6, head_size=8)
SAMPLES = [make_sample(20, 6, 2, seed=1), make_sample(9, 1, 0, seed=2), make_sample(30, 25, 17, seed=3)]


def make_network() -> MtpNetwork:
    torch.manual_seed(0)
    return MtpNetwork(SHAPE).eval()


def logits_of(network: MtpNetwork, samples: list[int], generator: torch.Generator | None = None) -> list[torch.Tensor]:
    batch = make_batch([SAMPLES[index] for index in samples], VOCABULARY, BLOCK)
    with torch.inference_mode():
        return list(MtpStudent(network, BLOCK).places(batch, generator))


def test_each_place_has_logits_for_the_rows_whose_first_place_is_scored() -> None:
    found = logits_of(make_network(), [0, 1, 2])
    rows = sum(len(one.tokens) - one.prompt_length - 1 for one in SAMPLES)
    assert [one.shape for one in found] == [(rows, len(KNOWN))] * BLOCK


def test_samples_in_a_batch_do_not_see_each_other_or_the_padding() -> None:
    network = make_network()
    together, alone = logits_of(network, [0, 1, 2]), [logits_of(network, [index]) for index in range(3)]
    for place in range(BLOCK):
        torch.testing.assert_close(together[place], torch.cat([one[place] for one in alone]), rtol=1e-4, atol=1e-4)


def test_later_places_are_given_the_tokens_that_were_right() -> None:
    network, batch = make_network(), make_batch(SAMPLES[:1], VOCABULARY, BLOCK)
    found = logits_of(network, [0])
    changed = batch.targets.clone()
    changed[..., 1] = (changed[..., 1] + 1) % len(KNOWN)
    with torch.inference_mode():
        other = list(MtpStudent(network, BLOCK).places(dataclasses.replace(batch, targets=changed), None))
    assert torch.equal(found[0], other[0])
    assert torch.equal(found[1], other[1])
    assert not torch.isclose(found[2], other[2]).all(1).any()


def test_a_row_sees_nothing_of_what_it_is_asked_for() -> None:
    """Changing the last token of a text changes no logits but those of places after it, of which there are none."""
    network, sample = make_network(), SAMPLES[0]
    other = dataclasses.replace(sample, tokens=(*sample.tokens[:-1], (sample.tokens[-1] + 1) % VOCAB))
    found = []
    for one in (sample, other):
        with torch.inference_mode():
            found.append(list(MtpStudent(network, BLOCK).places(make_batch([one], VOCABULARY, BLOCK), None)))
    assert torch.equal(found[0][0], found[1][0])


def test_some_samples_are_learned_without_hidden_states_as_the_generator_says() -> None:
    network = make_network()
    with torch.no_grad():
        network.no_features.normal_()
    first = [logits_of(network, [0], torch.Generator().manual_seed(seed))[0] for seed in range(60)]
    again = [logits_of(network, [0], torch.Generator().manual_seed(seed))[0] for seed in range(60)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    whole = logits_of(network, [0])[0]
    left_out = sum(not torch.equal(one, whole) for one in first)
    assert 1 <= left_out <= 15


def test_it_starts_from_the_targets_embeddings() -> None:
    network, before = make_network(), make_network().state_dict()
    embeddings = torch.randn(VOCAB, SHAPE.width, generator=torch.Generator().manual_seed(5)).bfloat16()
    start_mtp(network, VOCABULARY, embeddings)
    table = network.embedding.weight.detach()
    assert torch.equal(table[:-1], embeddings[KNOWN].float())
    assert torch.equal(table[-1], embeddings.float().mean(0))
    assert torch.equal(network.cell.down.weight, before["cell.down.weight"] * QUIET)
    assert torch.equal(network.join.weight, before["join.weight"])
