"""The tokenizers of VLSID: variable-length (``vlsid``) and its fixed-length control (``dvae``).

Training examples are *training events*, not items: every update draws events, so item i is seen in
proportion to its n_i (arXiv 2602.16375 and its official code). That is the whole link between
popularity and length; drawn uniformly, popular items would get no shorter codes.

The default schedule has two phases and is ours, for catalogues of a few thousand items: with the
paper's ramp of beta the lengths there lock in at T, or at 1 with later tokens untrained, before the
codebook has learnt anything. ``schedule="paper"`` is the published one.
"""

from __future__ import annotations

import logging
import math

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from recbole_vsid.tokenizer.base import Tokenizer, unit_rows
from recbole_vsid.tokenizer.defaults import fixed_chunks, local_seed, resolve_vocab_size
from recbole_vsid.tokenizer.dvae import (
    DVAEDecoder,
    DVAEEncoder,
    fixed_length_loss,
    length_posterior,
    schedule,
    squared_errors,
    token_kl,
    uniform_prefix_loss,
    variable_length_loss,
)
from recbole_vsid.tokenizer.dvae_settings import DVAESettings, FixedDVAESettings
from recbole_vsid.tokenizer.vlsid.length_cost import LengthCost

logger = logging.getLogger(__name__)

UPDATES_BY_CATALOGUE = ((300, 1_000), (3_000, 2_000), (10_000, 4_000), (50_000, 6_000))
MOST_UPDATES = 10_000
DRAWS_AT_ONCE = 2**20
REPORT_EVERY = 50

# A code is collapsed below this many distinct codes per distinct item vector; healthy runs reach .7 to 1.
FEWEST_DISTINCT = 0.2
# Codes of one token are right for a catalogue that they nearly tell apart, and a collapse otherwise.
FEWEST_DISTINCT_AT_LENGTH_1 = 0.5


class TokenizerCollapse(ValueError):
    """Training ended in codes that are useless; the message holds the measured numbers and what to change."""


class FixedDVAETokenizer(Tokenizer):
    """Residual dVAE whose codes all have T tokens: "the same model but for the length" (``dvae``).

    Only the reconstruction from the full code is trained, as in the paper's comparison.
    """

    name = "dvae"
    Settings = FixedDVAESettings
    shared_vocabulary = True
    variable_length = False

    encoder = decoder = None

    # --------------------------------------------------------------- training

    def fit(self, data):
        """Train on the events of ``data``; see :class:`~recbole_vsid.tokenizer.base.Tokenizer`.

        Raises:
            ValueError: more codewords than items, or no item has a training event.
            TokenizerCollapse: the codes are useless and ``on_collapse`` is "error". The model is kept,
                so the codes can still be looked at.
        """
        settings, n_items = self.settings, len(data.embedding) - 1
        counts = np.asarray(data.popularity[1:], dtype=np.int64)
        if counts.sum() == 0:
            raise ValueError(
                f"tokenizer {self.name!r} learns from training events, but none of {n_items} items has any"
            )
        vocab_size = resolve_vocab_size(settings, n_items)
        updates, batch_size = self._effort(n_items)
        items = data.embedding[1:]
        with local_seed(self.seed, self.device):
            self._build(items.shape[1], settings.hidden_size, vocab_size, settings.max_length, settings.decoder_layers)
            self._train(items, counts, updates, batch_size, self._free_bits(vocab_size))
        self._check_collapse(items, counts)
        return self

    def _effort(self, n_items):
        updates, batch_size = self.settings.updates, self.settings.batch_size
        if updates == "auto":
            updates = next((value for limit, value in UPDATES_BY_CATALOGUE if n_items <= limit), MOST_UPDATES)
        if batch_size == "auto":
            batch_size = 256 if n_items < 8_000 else 512
        return updates, batch_size

    def _free_bits(self, vocab_size):
        """An automatic vocabulary may be too small for the free bits; then half of ln V is what stays free."""
        if self.settings.vocab_size == "auto":
            return min(self.settings.free_bits, math.log(vocab_size) / 2)
        return self.settings.free_bits

    def _build(self, d, hidden_size, vocab_size, max_length, decoder_layers, decoder_width=None):
        settings = self.settings
        self.encoder = DVAEEncoder(
            d,
            hidden_size,
            vocab_size,
            max_length,
            stop_head=self.variable_length,
            logit_scale=settings.logit_scale,
            step_size=settings.step_size,
            dropout=settings.dropout,
            codebook_dropout=settings.codebook_dropout,
        ).to(self.device)
        width = decoder_width or settings.decoder_multiplier * hidden_size
        self.decoder = DVAEDecoder(d, width, vocab_size, decoder_layers, settings.dropout).to(self.device)

    def _parameters(self):
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def _train(self, items, counts, updates, batch_size, free_bits):
        settings = self.settings
        noise = torch.Generator(self.device).manual_seed(self.seed)
        self.encoder.train()
        self.decoder.train()
        optimizer = torch.optim.AdamW(
            self._parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        batches = draw_events(counts, batch_size, updates, np.random.default_rng(self.seed))
        with tqdm(total=updates, desc=self.name, unit="update", disable=not self.show_progress) as bar:
            for step, batch in enumerate(batches):
                tau, beta, warming = schedule(settings, step, updates)
                # Copies these rows only: the matrix may be a file that is larger than the memory.
                x = torch.from_numpy(unit_rows(items[batch])).to(self.device)
                terms = self._loss(x, tau, beta, warming, free_bits, noise)
                if terms.mean_length is not None:
                    self._follow_length(terms.mean_length, 1 - (step + 1) / updates)
                optimizer.zero_grad(set_to_none=True)
                terms.loss.backward()
                optimizer.step()
                if (step + 1) % REPORT_EVERY == 0 or step + 1 == updates:
                    self._report(bar, terms, step + 1)
        self.encoder.eval()
        self.decoder.eval()

    def _report(self, bar, terms, step):
        loss = float(terms.loss.detach())
        if not math.isfinite(loss):
            raise TokenizerCollapse(
                f"tokenizer {self.name!r}: the loss is {loss} after {step} updates; lower "
                f"sid_learning_rate={self.settings.learning_rate}"
            )
        shown = {"reconstruction": f"{float(terms.reconstruction.detach()):.4f}"}
        if terms.mean_length is not None:
            shown["E[L]"] = f"{float(terms.mean_length.detach()):.2f}"
        bar.set_postfix(shown, refresh=False)
        bar.update(step - bar.n)

    def _loss(self, x, tau, beta, warming, free_bits, noise):
        output = self.encoder(x, tau, generator=noise)
        return fixed_length_loss(x, self.decoder(output.relaxed_tokens), output.token_logits, beta, free_bits)

    # --------------------------------------------------------------- encoding

    @torch.no_grad()
    def _encode(self, embedding):
        self._require_fitted()
        codes = np.empty((len(embedding), self.encoder.max_length), dtype=np.int32)
        lengths = np.empty(len(embedding), dtype=np.int32)
        for rows, (chunk,) in fixed_chunks(embedding):
            chunk_codes, stop_logits = self.encoder.encode(torch.from_numpy(unit_rows(chunk)).to(self.device))
            n = rows.stop - rows.start
            codes[rows] = chunk_codes[:n].cpu().numpy()
            if stop_logits is None:
                lengths[rows] = self.encoder.max_length
            else:
                lengths[rows] = length_posterior(stop_logits)[0].argmax(1)[:n].cpu().numpy() + 1
        return codes, lengths

    def assign(self, embedding):
        codes, lengths = self._encode(embedding)
        return np.where(np.arange(codes.shape[1]) < lengths[:, None], codes, np.int32(-1)), lengths

    def assign_full(self, embedding):
        return self._encode(embedding)[0]

    @torch.no_grad()
    def prefix_errors(self, embedding, codes):
        """See :meth:`Tokenizer.prefix_errors`.

        Raises:
            ValueError: ``codes`` has other than T columns or holds something else than codewords.
        """
        self._require_fitted()
        codes = self._full_length_codes(codes, len(embedding))
        errors = np.empty(codes.shape, dtype=np.float32)
        for rows, (x, ids) in fixed_chunks(embedding, codes.astype(np.int64)):
            x, ids = torch.from_numpy(unit_rows(x)).to(self.device), torch.from_numpy(ids).to(self.device)
            errors[rows] = squared_errors(x, self.decoder.decode(ids))[: rows.stop - rows.start].cpu().numpy()
        return errors

    @property
    def vocab_sizes(self):
        self._require_fitted()
        return (len(self.encoder.codebook),) * self.encoder.max_length

    def _require_fitted(self):
        if self.encoder is None:
            raise RuntimeError(f"tokenizer {self.name!r} has no weights yet: call fit() or load_state_dict() first")

    # ------------------------------------------------------------------ state

    def state_dict(self):
        self._require_fitted()
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        return {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}

    def load_state_dict(self, state):
        """Restore a state; all sizes come from it, whatever the settings say.

        Raises:
            ValueError: the state belongs to another tokenizer or is incomplete.
        """
        parts = {
            part: {key[len(part) + 1 :]: value for key, value in state.items() if key.startswith(part + ".")}
            for part in ("encoder", "decoder")
        }
        try:
            hidden_size, d = parts["encoder"]["token_branch.linear.weight"].shape
            vocab_size, decoder_width = parts["decoder"]["token_embedding"].shape
            max_length = len(parts["encoder"]["log_logit_scale"])
            decoder_layers = sum(key.endswith(".mlp_in.weight") for key in parts["decoder"])
            with local_seed(self.seed, self.device):
                self._build(d, hidden_size, vocab_size, max_length, decoder_layers, decoder_width)
            for part, module in (("encoder", self.encoder), ("decoder", self.decoder)):
                module.load_state_dict(parts[part])
                module.eval()
        except (KeyError, RuntimeError) as error:
            self.encoder = self.decoder = None
            raise ValueError(f"this is no state of tokenizer {self.name!r}: {error}") from error

    # --------------------------------------------------------------- collapse

    def _check_collapse(self, embedding, counts):
        codes, lengths = self.assign(embedding)
        if self.found and lengths.min() == lengths.max():
            logger.warning(
                f"tokenizer {self.name!r}: no price of a token makes the lengths vary here (the last one tried was "
                f"{self.found}); all codes have {lengths[0]} content tokens"
            )
        _, group, group_sizes = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
        collides = group_sizes[group.reshape(-1)] > 1
        distinct = len(group_sizes) / len(codes)
        if distinct < FEWEST_DISTINCT_AT_LENGTH_1:
            # Items with the same vector cannot be told apart and are nobody's fault.
            distinct = len(group_sizes) / count_directions(embedding)
        mean_length = float(np.average(lengths, weights=counts))
        problem = self._collapse(distinct, mean_length, codes.shape[1])
        if problem is None:
            return
        message = (
            f"tokenizer {self.name!r} collapsed: {problem}. Measured on {len(codes)} items: {len(group_sizes)} "
            f"distinct codes ({distinct:.3f} per distinct vector, largest group {group_sizes.max()}), "
            f"{collides.mean():.1%} of items and "
            f"{np.average(collides, weights=counts):.1%} of training events share their code, mean length "
            f"{mean_length:.2f} over events and {lengths.mean():.2f} over items, of at most {codes.shape[1]}"
        )
        if self.settings.on_collapse == "error":
            raise TokenizerCollapse(message + '; sid_on_collapse="warn" uses the codes all the same')
        logger.warning(message)

    def _collapse(self, distinct, mean_length, max_length):
        """What is wrong and which settings to change, or None; ``mean_length`` is over training events."""
        settings = self.settings
        if distinct < FEWEST_DISTINCT:
            return (
                f"very few distinct codes (raise sid_updates={settings.updates}, change "
                f"sid_vocab_size={settings.vocab_size} or lower sid_beta={settings.beta})"
            )
        return None


class DVAETokenizer(FixedDVAETokenizer):
    """VLSID: codes of 1..T tokens, shorter for items that occur often (``vlsid``)."""

    name = "vlsid"
    Settings = DVAESettings
    variable_length = True

    def _build(self, d, hidden_size, vocab_size, max_length, decoder_layers, decoder_width=None):
        super()._build(d, hidden_size, vocab_size, max_length, decoder_layers, decoder_width)
        self._cost = None

    def _loss(self, x, tau, beta, warming, free_bits, noise):
        settings = self.settings
        output = self.encoder(x, tau, generator=noise, with_stop=not warming)
        reconstructions = self.decoder(output.relaxed_tokens)
        if warming:
            return uniform_prefix_loss(x, reconstructions)
        if settings.length_cost == "auto" and beta > 0 and self._cost is None:
            self._cost = LengthCost(reconstructions.size(1), beta, settings.smoothing, free_bits)
            self._cost.start(squared_errors(x, reconstructions).detach(), token_kl(output.token_logits).detach())
        return variable_length_loss(
            x,
            reconstructions,
            output.token_logits,
            output.stop_logits,
            beta,
            self._price(),
            free_bits,
            settings.smoothing,
        )

    def _price(self):
        if self.settings.length_cost != "auto":
            return self.settings.length_cost
        return self._cost.price if self._cost is not None else 0.0  # no cost counts where beta is 0

    def _follow_length(self, mean_length, left):
        if self._cost is not None:
            self._cost.follow(float(mean_length.detach()), left)
            self.found["length_cost"] = round(self._cost.value, 3)

    def _collapse(self, distinct, mean_length, max_length):
        settings = self.settings
        if mean_length < 1.005 and distinct < FEWEST_DISTINCT_AT_LENGTH_1:
            return (
                f"all codes have one token and many collide (lower sid_length_cost={settings.length_cost}, raise "
                f"sid_updates={settings.updates} or sid_vocab_size={settings.vocab_size})"
            )
        if mean_length > max_length - 0.005 and self._cost is None:
            return (
                f"all codes have the full length, so nothing is gained by varying it (raise "
                f"sid_length_cost={settings.length_cost}, sid_max_length={settings.max_length} or "
                f"sid_updates={settings.updates})"
            )
        return super()._collapse(distinct, mean_length, max_length)


def draw_events(counts, batch_size, updates, rng):
    """Yield ``updates`` batches of item indices, int64 ``[batch_size]``, item i with probability n_i / sum n.

    A training event is drawn and its item looked up, which is exact in integers and needs no event table.
    """
    ends = np.cumsum(counts)
    per_draw = max(1, DRAWS_AT_ONCE // batch_size)
    for start in range(0, updates, per_draw):
        events = rng.integers(0, ends[-1], size=(min(per_draw, updates - start), batch_size))
        yield from np.searchsorted(ends, events, side="right")


def count_directions(matrix):
    """How many different rows a matrix ``[n, d]`` has up to their length, without a sorted copy of it.

    Rows are told apart by 64-bit hashes; two of a million share theirs by chance once in 40 million times.
    """
    factors = np.random.default_rng(0).integers(2**63, size=matrix.shape[1], dtype=np.uint64) * 2 + 1
    hashes = []
    for rows, (chunk,) in fixed_chunks(matrix):
        chunk = unit_rows(chunk) + np.float32(0)  # -0 and 0 differ in a bit
        entries = pd.util.hash_array(chunk.ravel()).reshape(chunk.shape)
        hashes.append((entries * factors).sum(1)[: rows.stop - rows.start])
    return len(np.unique(np.concatenate(hashes)))
