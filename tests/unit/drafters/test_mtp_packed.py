"""The network for inference computes what the network in training does."""

from __future__ import annotations

import pytest
import torch

from paceline.drafters.mtp_network import MtpNetwork, causal_mask
from paceline.drafters.mtp_packed import PackedNetwork
from tests.support.tiny_drafters import SHAPE, make_network

ROWS = 20


@pytest.fixture(scope="module")
def network() -> MtpNetwork:
    return make_network()


@pytest.fixture(scope="module")
def packed(network: MtpNetwork) -> PackedNetwork:
    with torch.inference_mode():
        return PackedNetwork(network, torch.float32)


def inputs(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [rows, features] and own ids [rows], the id of unknown tokens among them."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(ROWS, SHAPE.features, generator=generator).bfloat16()
    words = torch.randint(0, SHAPE.vocab + 1, (ROWS,), generator=generator)
    words[3] = SHAPE.vocab
    return features, words


@pytest.mark.parametrize("is_seen", [True, False])
def test_rows_are_the_same_with_and_without_hidden_states(
    network: MtpNetwork, packed: PackedNetwork, is_seen: bool
) -> None:
    features, words = inputs()
    with torch.inference_mode():
        expected = network.rows(features, torch.full((ROWS,), is_seen), words)
        found = packed.rows(features if is_seen else None, words)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("start", [0, 1000])
def test_states_are_the_same_where_each_row_sees_its_window(
    network: MtpNetwork, packed: PackedNetwork, start: int
) -> None:
    features, words = inputs()
    positions = start + torch.arange(ROWS)
    with torch.inference_mode():
        x = network.rows(features, torch.ones(ROWS, dtype=torch.bool), words)
        mask = causal_mask(torch.ones(1, ROWS, dtype=torch.bool), SHAPE.window)
        expected = network.states(x[None], positions[None], mask)[0]
        rows = packed.rows(features, words)
        q, k, v = packed.project(rows, positions)
        first = [max(0, row + 1 - SHAPE.window) for row in range(ROWS)]
        found = packed.states(rows, q, [(k[a : row + 1], v[a : row + 1]) for row, a in enumerate(first)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_step_of_the_cell_and_the_output_layer_are_the_same(network: MtpNetwork, packed: PackedNetwork) -> None:
    _, words = inputs()
    states = torch.randn(ROWS, SHAPE.width, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = network.advance(states, words)
        found = packed.advance(states, words)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(packed.logits(found), network.logits(expected), rtol=1e-4, atol=1e-4)


def test_a_row_sees_itself_and_the_valid_rows_of_its_window() -> None:
    valid = torch.tensor([[True, True, True, True], [False, True, True, False]])
    found = causal_mask(valid, 2)
    assert found.shape == (2, 1, 4, 4)
    assert found[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert found[1, 0].int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_weights_of_eight_bits_change_little(network: MtpNetwork) -> None:
    features, words = inputs()
    with torch.inference_mode():
        small = PackedNetwork(network, torch.float32, quantized=True)
        exact = PackedNetwork(network, torch.float32)
        found, expected = (one.logits(one.advance(one.rows(features, words), words)) for one in (small, exact))
    assert not torch.equal(found, expected)
    assert (found - expected).square().mean() < 2e-3 * expected.square().mean()
