"""IntRR: one token per item of history, one backbone pass per list; the codes are walked in a small network.

Wang et al., *IntRR: A Framework for Integrating SID Redistribution and Length Reduction*, arXiv 2602.20704.
An item enters the backbone as one vector: its unique id guides the Recursive-Assignment Network (``ran.py``) over the
codebooks, and the contexts of all levels are added up. The backbone's last state guides the same network along the
codes of the next item, which beam search or exact scoring of the whole catalogue turns into a ranking. The loss is the
cross-entropy of the next item's codes and ``alignment_weight`` times that of the codes of the items read, which draws
each item's distributions towards its own semantic ID.

Where paper and code differ this follows the paper's wording: mixtures of codewords as tokens (``assign: ste`` is the
code's choice) and an alignment weight above 0. Other differences, on purpose: whole sequences are trained at all
positions instead of one row per prefix (one longer than the longest history in several windows, cut elsewhere in every
epoch, so that the first targets of a window see few events); a feed-forward of two matrices instead of three; a level
has only the codewords that its codes use; Muon and AdamW with averaged weights. Codes of different lengths work: a
token adds up, and the losses count, the levels that the item's code has.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from recbole_vsid.decoding.exact import score_first_order
from recbole_vsid.model.causal import CausalRecommender, linear_weights
from recbole_vsid.model.ran import RecursiveAssignment, Walk
from recbole_vsid.model.unchanged import WhileUnchanged
from recbole_vsid.semantic_id.table import PAD

ITEM_TOKENS = ("redistributed", "uid", "codes")
ASSIGNMENTS = ("soft", "ste")
MOST_TRANSITIONS = 2**26  # logits of users × code pairs that exact scoring holds at once


class IntRR(CausalRecommender):
    """IntRR on any semantic IDs without prefixes among them.

    Args:
        config: reads ``uid_size``, ``ran_hidden_size``, ``codebook_std``, ``assign``, ``alignment_weight``,
            ``item_token`` and the keys of :class:`~recbole_vsid.model.causal.CausalRecommender`.
        dataset: a built :class:`~recbole_vsid.data.dataset.SemanticIDDataset`.
    """

    tokens_per_item = 1.0

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        width = config["hidden_size"]
        self.item_token, self.assign = config["item_token"], config["assign"]
        self.alignment_weight = config["alignment_weight"]
        if self.item_token != "codes":
            self.uid = nn.Embedding(self.n_items, config["uid_size"], padding_idx=0)
            self.guide = nn.Linear(config["uid_size"], width)
        self.ran = RecursiveAssignment(
            [end - first for first, end in self.vocabularies], width, config["ran_hidden_size"], config["codebook_std"]
        )
        first = torch.tensor([first for first, _ in self.vocabularies])
        # Codes count from 0 at every level, in the table's flat codes they need not.
        self.register_buffer("paths", torch.where(self.codes == PAD, PAD, self.codes - first), persistent=False)
        self._token_table = WhileUnchanged()

    @classmethod
    def check_settings(cls, config):
        super().check_settings(config)
        for key, allowed in {"assign": ASSIGNMENTS, "item_token": ITEM_TOKENS}.items():
            if config[key] not in allowed:
                raise ValueError(f"{key}={config[key]!r} is not usable: it must be one of {', '.join(allowed)}")

    def hidden_matrices(self):
        return [*super().hidden_matrices(), *linear_weights(self.ran.questions)]

    # ------------------------------------------------------------------ input side

    def tokens_of(self, items):
        """What the backbone reads of ``items`` int64 ``[n]``.

        Returns:
            tokens fp32 ``[n, width]``, and the logits over each level's codewords, a list of fp32 ``[n, K]`` (empty
            unless ``item_token`` is ``redistributed``).
        """
        if self.item_token == "uid":
            return self.guide(self.uid(items)).float(), []
        if self.item_token == "codes":
            contexts = [codebook(path.clamp(min=0)) for codebook, path in zip(self.ran.codebooks, self.paths[items].T)]
            logits = []
        else:
            contexts, logits = self.ran.free(self.guide(self.uid(items)), self.assign)
        used = (self.paths[items] != PAD).unsqueeze(2)
        return (torch.stack(contexts, dim=1) * used).sum(1), logits

    def _parts(self):
        """Ids of all items, some thousand at a time."""
        return torch.arange(1, self.n_items, device=self.codes.device).split(4096)

    def train(self, mode=True):
        """As in PyTorch; training forgets the token table."""
        if mode:
            self._token_table.forget()
        return super().train(mode)

    def token_table(self):
        """Tokens of all items ``[n_items, width]``, computed anew whenever a weight has changed; without gradient."""
        weights = (weight for name, weight in self.named_parameters() if not name.startswith("backbone."))
        with torch.no_grad():
            return self._token_table.get(weights, self._all_tokens, self.bf16)

    def _all_tokens(self):
        return F.pad(torch.cat([self.tokens_of(part)[0] for part in self._parts()]), (0, 0, 1, 0))

    @torch.no_grad()
    def diagnostics(self):
        """How far the redistribution went over the whole catalogue (section 7.2, pitfalls 2 and 3).

        Returns:
            ``distinct_token_paths``, how many different paths of likeliest codewords there are, as a share of the items
            (1 is ideal), and ``alignment_<level>``, the share of items whose likeliest codeword of a level is that of
            their semantic ID. Only levels that an item's code has count. Nothing unless ``item_token`` is
            ``redistributed``.
        """
        if self.item_token != "redistributed":
            return {}
        with self._autocast():
            likeliest = torch.cat([self._likeliest(part) for part in self._parts()])
        paths = self.paths[1:, : self.trie.max_depth]
        used = paths != PAD
        likeliest = likeliest[:, : self.trie.max_depth].masked_fill(~used, PAD)
        aligned = (((likeliest == paths) & used).sum(0) / used.sum(0)).tolist()
        share = len(likeliest.unique(dim=0)) / len(likeliest)
        return {"distinct_token_paths": share, **{f"alignment_{i}": each for i, each in enumerate(aligned, start=1)}}

    def _likeliest(self, items):
        """The likeliest codeword of every level for ``items`` ``[n]``, int64 ``[n, n_levels]``."""
        return torch.stack([logits.argmax(-1) for logits in self.tokens_of(items)[1]], dim=1)

    # --------------------------------------------------------------------- training

    def calculate_loss(self, interaction):
        return sum(self.losses(interaction).values())

    def losses(self, interaction):
        """Mean over targets of the cross-entropy summed over levels, and the weighted alignment (section 4.4)."""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        read, targets = items[:, :-1], items[:, 1:]
        real = torch.arange(1, items.size(1), device=items.device) < lengths.unsqueeze(1)
        distinct, place, counts = read.masked_fill(~real, 0).unique(return_inverse=True, return_counts=True)
        tokens, logits = self.tokens_of(distinct)
        tokens = tokens * (distinct > 0).unsqueeze(1)
        hidden = self.backbone(F.embedding(place, tokens))[real]
        paths = self.paths[targets[real]]
        along = zip(self.ran.along(hidden, paths), paths.T)
        terms = {"generation": sum(_cross_entropy(*each) for each in along).mean()}
        if logits and self.alignment_weight:
            aligned = sum(_cross_entropy(*each) for each in zip(logits, self.paths[distinct].T))
            weights = counts * (distinct > 0)
            terms["alignment"] = self.alignment_weight * (aligned * weights).sum() / weights.sum()
        return terms

    # --------------------------------------------------------------------- decoding

    def guidance(self, interaction):
        """The backbone's state behind the last item of each history, ``[B, width]``."""
        lengths = interaction[self.ITEM_SEQ_LEN]
        items = interaction[self.ITEM_SEQ][:, : int(lengths.max())]
        hidden = self.backbone(F.embedding(items, self.token_table()))
        return hidden[torch.arange(len(lengths), device=lengths.device), lengths - 1]

    def start_decoding(self, interaction):
        """As in the base class. The backbone is used here, once; a step needs only the last code of each beam."""
        walk, levels = Walk(self.ran, self.guidance(interaction)), iter(range(self.ran.n_levels))

        def step(tokens, parents):
            level = next(levels)
            return walk.logits(level, None if tokens is None else tokens - self.vocabularies[level - 1][0])

        return step

    def _catalogue_scores(self, interaction):
        sizes = [codebook.num_embeddings for codebook in self.ran.codebooks]
        users_at_once = max(1, MOST_TRANSITIONS // max(before * size for before, size in zip([1, *sizes], sizes)))
        with self._autocast():
            walks = [Walk(self.ran, part) for part in self.guidance(interaction).split(users_at_once)]
            scores = [score_first_order(walk.logits, self.trie, self.vocabularies, self.renormalize) for walk in walks]
        return torch.cat(scores)


def _cross_entropy(logits, codes):
    """Cross-entropy ``[n]`` of ``logits`` ``[n, K]``, 0 where there is no code."""
    return F.cross_entropy(logits, codes, ignore_index=PAD, reduction="none")
