"""What every generative recommender of this package shares: its table, its trie, its ranking.

A model turns a user's history into an incremental decoder (:meth:`GenerativeRecommender.start_decoding`);
this class turns that into items: by beam search over the trie of semantic IDs, or by exact scoring of
the whole catalogue.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

from recbole_vsid.data.dataset import SemanticIDDataset
from recbole_vsid.decoding.beam import constrained_beam_search
from recbole_vsid.decoding.exact import score_catalogue
from recbole_vsid.decoding.ranking import best_items
from recbole_vsid.decoding.trie import PrefixTrie
from recbole_vsid.trainer import GenerativeTrainer


class GenerativeRecommender(SequentialRecommender, ABC):
    """A sequential recommender that generates the semantic ID of the next item.

    Args:
        config: the run's configuration; reads ``beam_width``, ``decoding``, ``topk``, ``enable_amp``.
        dataset: a built :class:`~recbole_vsid.data.dataset.SemanticIDDataset`.

    Attributes:
        codes: int64 ``[n_items, max_length]``, the table's flat codes, −1 padded.
        code_lengths: int64 ``[n_items]``.
        vocabularies: which tokens the logits of each position are of, see
            :func:`~recbole_vsid.decoding.beam.constrained_beam_search`.
        renormalize: which positions' probabilities sum to one over the tokens that lead to an item, see there.
    """

    vocabularies = None
    renormalize = "first"
    input_type = InputType.POINTWISE
    dataset_class = SemanticIDDataset
    trainer_class = GenerativeTrainer

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.tokenizer_report = dataset.tokenizer_report
        self.beam_width, self.decoding = config["beam_width"], config["decoding"]
        self.bf16 = config["enable_amp"]
        for name in ("codes", "code_lengths"):
            self.register_buffer(name, None)
        self.use_table(dataset.semantic_ids, config["device"])

    def use_table(self, table, device):
        """Read and write the semantic IDs of ``table`` from now on.

        A later table must have the vocabularies of the first one.
        """
        self.semantic_ids = table
        self.codes = torch.from_numpy(table.flat_codes()).to(device)
        self.code_lengths = torch.from_numpy(table.lengths.astype(np.int64)).to(device)
        self.trie = PrefixTrie.from_table(table, device=device)

    def restricted_trie(self, items):
        """The tree of some ``items`` (ids) only: as :attr:`trie` it restricts every ranking to them."""
        return PrefixTrie.from_table(self.semantic_ids, items, self.trie.device)

    @property
    def ranks_all(self):
        """Whether a ranking scores every item instead of searching for the best ones."""
        return self.decoding == "exact"

    @property
    def ranking(self):
        """How items are found and put in order, in words."""
        return "exact" if self.ranks_all else f"beam {self.beam_width}"

    @classmethod
    def check_settings(cls, config):
        """Refuse unusable settings before any data is read; a subclass adds its own.

        Raises:
            ValueError: ``beam_width`` is below the largest cut-off, or the split is not
                leave-one-out (only then are a user's training events exactly the first of its sequence).
        """
        if config["eval_args"]["split"] != {"LS": "valid_and_test"} or config["eval_args"]["order"] != "TO":
            raise ValueError(
                f"eval_args={config['eval_args']!r} is not usable: {config['model']} takes only "
                "split: {LS: valid_and_test} with order: TO"
            )
        cutoff = max(config["topk"])
        if config["beam_width"] < cutoff:
            raise ValueError(
                f"beam_width={config['beam_width']} is below the largest cut-off topk={cutoff}: a beam that narrow "
                f"cannot fill the ranking; set beam_width to at least {cutoff}"
            )

    @abstractmethod
    def start_decoding(self, interaction):
        """Begin to generate the next item.

        Args:
            interaction: with ``item_id_list`` int64 ``[B, n]``, histories, oldest first, right-padded with 0, and
                ``item_length`` int64 ``[B]``; some models read ``user_id`` too.

        Returns:
            ``step(tokens, parents)`` as :func:`~recbole_vsid.decoding.beam.constrained_beam_search` wants it.
        """

    @abstractmethod
    def hidden_matrices(self):
        """The weights that ``learner: muon`` orthogonalises: between hidden states, no embeddings, no output head."""

    def own_parameter_groups(self):
        """Parameter groups with names and learning rates of their own, as an optimizer takes them; by default none."""
        return []

    @property
    def tokens_per_item(self):
        """Positions that an event of a history takes in the backbone, on average over the training events."""
        return self.tokenizer_report["length"]["full"]["events"]

    def losses(self, interaction):
        """The weighted terms of the training loss of a batch, name → scalar; RecBole's loss is their sum."""
        return {"generation": self.calculate_loss(interaction)}

    def diagnostics(self):
        """What is worth watching beside the loss, for the weights as they are: name → number. Nothing by default."""
        return {}

    @abstractmethod
    def train_loader(self, config, dataset):
        """The iterable of training batches, with ``set_epoch``."""

    @torch.no_grad()
    def topk(self, interaction, k):
        """The ``k`` best items, without a ``[B, n_items]`` matrix under beam search.

        Returns:
            items int64 ``[B, k]`` and scores float32 ``[B, k]``, sorted; empty slots are item 0 with −inf.
        """
        if self.ranks_all:
            items, scores = best_items(self._catalogue_scores(interaction), k)
            items = torch.where(scores.isfinite(), items, 0)
        else:
            items, scores = self._beam_search(interaction, k)
        missing = max(0, k - items.size(1))
        return (
            torch.nn.functional.pad(items, (0, missing)),
            torch.nn.functional.pad(scores, (0, missing), value=-torch.inf),
        )

    @torch.no_grad()
    def full_sort_predict(self, interaction):
        """Log-probabilities ``[B, n_items]``; −inf for items that the beam did not reach."""
        if self.ranks_all:
            return self._catalogue_scores(interaction)
        items, scores = self._beam_search(interaction)
        dense = scores.new_full((len(items), self.n_items), -torch.inf)
        # Empty slots point at the padding item 0, whose score stays −inf.
        return dense.scatter_(1, items, scores)

    def predict(self, interaction):
        """Scores ``[B]`` of the items of ``interaction`` (RecBole's contract)."""
        scores = self.full_sort_predict(interaction)
        return scores.gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)

    def _autocast(self):
        return torch.autocast(self.trie.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _beam_search(self, interaction, k=None):
        with self._autocast():
            step = self.start_decoding(interaction)
            return constrained_beam_search(step, self.trie, self.beam_width, k, self.vocabularies, self.renormalize)

    def _catalogue_scores(self, interaction):
        with self._autocast():
            return score_catalogue(self.start_decoding(interaction), self.trie, self.vocabularies, self.renormalize)
