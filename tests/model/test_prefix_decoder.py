"""Incremental decoding behind a shared history against the same stack on whole sequences, row by row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recbole_vsid.model.hstu import HSTU
from recbole_vsid.model.prefix_decoder import PrefixDecoder
from recbole_vsid.model.t5 import Stack
from tests.model.test_t5 import searches

WIDTH = 12
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def stack_of(backbone, n_layers):
    """An evaluating stack of width 12 whose weights are large enough to matter; heads of T5 are not of the width."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = HSTU(WIDTH, n_layers, 2, 0.1) if backbone == "hstu" else Stack(WIDTH, n_layers, 2, 5, 20, 0.1, True)
        for parameter in made.parameters():
            nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.4)
    return made.eval()


def check_whole(stack, output, rows):
    """``output`` ``[width]`` of each row is the last of the stack on the row, ``[n, width]``, alone."""
    for one, row in zip(output, rows):
        torch.testing.assert_close(one, stack(row[None])[0, -1], **CLOSE)


@pytest.mark.parametrize("backbone", ["transformer", "hstu"])
@settings(max_examples=25, deadline=None)
@given(searches(), st.sampled_from([1, 2, 7]), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_beams_equal_whole_sequences(backbone, search, longer, n_layers, seed):
    """Histories of up to 42 positions, far beyond the 16 distances that have a bucket each."""
    (lengths, steps), generator = search, torch.Generator().manual_seed(seed)
    lengths = [longer * length for length in lengths]
    stack = stack_of(backbone, n_layers)
    x = torch.randn(len(lengths), max(lengths) + 1, WIDTH, generator=generator)
    with torch.no_grad():
        decoder = PrefixDecoder(stack, x, torch.tensor(lengths))
        beams = [[row[:length]] for row, length in zip(x, lengths)]
        check_whole(stack, decoder.last, [row for (row,) in beams])
        assert decoder.n_steps == 0
        for number, parents in enumerate(map(torch.tensor, steps), start=1):
            x = torch.randn(*parents.shape, WIDTH, generator=generator)
            hidden = decoder.step(x, parents)
            assert hidden.shape == x.shape and decoder.n_steps == number
            beams = [
                [torch.cat([row[parent], new[None]]) for parent, new in zip(chosen, vectors)]
                for row, chosen, vectors in zip(beams, parents.tolist(), x)
            ]
            check_whole(stack, hidden.flatten(0, 1), [beam for row in beams for beam in row])


def decode(stack, x, lengths, steps):
    """Outputs of all steps ``(vectors, parents)``, the history's last state first."""
    with torch.no_grad():
        decoder = PrefixDecoder(stack, x, lengths)
        return [decoder.last, *(decoder.step(*step) for step in steps)]


def some_steps(n_rows, seed=3):
    generator = torch.Generator().manual_seed(seed)
    parents = [torch.zeros(n_rows, 4, dtype=torch.int64)]
    parents += [torch.randint(4, (n_rows, 4), generator=generator) for _ in range(3)]
    return [(torch.randn(n_rows, 4, WIDTH, generator=generator), chosen) for chosen in parents]


def test_a_row_does_not_depend_on_the_others(backbone):
    stack, lengths = stack_of(backbone, 2), torch.tensor([6, 2, 9, 1])
    x, steps = torch.randn(4, 9, WIDTH, generator=torch.Generator().manual_seed(4)), some_steps(4)
    together = decode(stack, x, lengths, steps)
    for row in range(4):
        own = slice(row, row + 1)
        alone = decode(stack, x[own, : lengths[row]], lengths[own], [(new[own], chosen[own]) for new, chosen in steps])
        for one, other in zip(together, alone):
            torch.testing.assert_close(one[own], other, **CLOSE)


def test_a_history_without_padding_is_read_to_its_end(backbone):
    stack, generator = stack_of(backbone, 2), torch.Generator().manual_seed(5)
    x = torch.randn(2, 5, WIDTH, generator=generator)
    changed = x.clone()
    changed[:, 3] = torch.randn(2, WIDTH, generator=generator)
    padded, full = ([decode(stack, each, torch.tensor([3, n]), some_steps(2)) for each in (x, changed)] for n in (3, 5))
    for one, other in zip(*padded):
        assert torch.equal(one, other), "behind a row's end nothing counts"
    for one, other in zip(*full):
        assert torch.equal(one[0], other[0]) and ((one[1] - other[1]).abs().amax(-1) > 1e-4).all()


class Largest(TorchDispatchMode):
    """Notes the most elements that any result has, views among them."""

    n_elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [each.numel() for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        self.n_elements = max([self.n_elements, *sizes])
        return result


def test_beams_share_the_history(backbone):
    """Nothing in a step is as large as the keys of one head would be with a copy for each beam."""
    stack, n_rows, n_beams, length = stack_of(backbone, 2), 2, 30, 40
    x = torch.randn(n_rows, length, WIDTH, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        decoder = PrefixDecoder(stack, x, torch.tensor([length, 7]))
        parents = torch.zeros(n_rows, n_beams, dtype=torch.int64)
        for _ in range(3):
            with Largest() as largest:
                decoder.step(torch.randn(n_rows, n_beams, WIDTH), parents)
            # The logits over the history, [rows, heads, beams, length], are what is largest.
            assert n_rows * 2 * n_beams * length <= largest.n_elements < n_rows * n_beams * length * 5
            parents = torch.arange(n_beams).flip(0).expand(n_rows, -1)


def test_the_history_is_run_once(backbone):
    stack = stack_of(backbone, 2)
    projected, normed = [], []
    for layer in stack.layers:
        matrix = layer.inward if backbone == "hstu" else layer.self_attention.k
        matrix.register_forward_hook(lambda module, args, output: projected.append(tuple(output.shape[:2])))
    stack.register_forward_hook(lambda module, args, output: normed.append(tuple(output.shape[:2])))
    decode(stack, torch.randn(3, 8, WIDTH), torch.tensor([8, 3, 5]), some_steps(3))
    assert normed == [(3, 8)] and projected == [(3, 8)] * 2 + [(3, 4)] * 2 * 4
