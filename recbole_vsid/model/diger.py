"""DIGER: TIGER's generator on semantic IDs that are trained with it.

Fu et al., *Differentiable Semantic ID for Generative Recommendation*, arXiv 2601.19711. The generator reads and writes
the codes of a table that is constant within an epoch and is made anew from the codebooks after it. In the backward
pass a code behaves like its distribution under the codebooks as they are now (``recbole_vsid/tokenizer/joint.py``), so
the recommendation loss reaches the codebooks by three paths, each with a switch: the ``history`` that the encoder
reads, the ``teacher``-forced tokens that the decoder reads, and the ``label``. The forward pass is
TIGER's, to the bit, with ``joint_forward: cached``.

The label path alone would be happiest with one code for all items; the two losses of the quantiser and the noise work
against that. With ``joint_gradient_paths: []`` the codebooks learn from the quantiser's losses only, as they did in the
code behind the published tables; ``joint_codebook_learning_rate: 0`` is two-stage training.

Differences from the paper and its corrected code, on purpose: TIGER's sizes, optimizer and averaged weights as in the
rest of this package (with an output head of its own unless ``tie_embeddings``), rates of the codebooks from a budget of
movement, no weight decay for them, tables from averaged codebooks, latent space in units of its deviation, decoding
over the trie of codes that exist. Not offered: a schedule of the temperature, running shares per epoch, λ by itself.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
import torch.nn.functional as F

from recbole_vsid.data.joint import JointDataset
from recbole_vsid.joint_trainer import JointTrainer
from recbole_vsid.model.tiger import TIGER, Tokens
from recbole_vsid.semantic_id.moving import changed_share, distinct_codes, effective_codes, next_table, used_codes
from recbole_vsid.semantic_id.table import PAD
from recbole_vsid.tokenizer.joint import JointSettings, carry

TRAINABLE_TOKENIZERS = ("rqvae", "rkmeans", "rvq")


class DIGER(TIGER):
    """TIGER with a tokenizer that is trained.

    Args:
        config: also reads the keys of :class:`~recbole_vsid.tokenizer.joint.JointSettings`.
        dataset: a built :class:`~recbole_vsid.data.joint.JointDataset`.

    Attributes:
        joint: the :class:`~recbole_vsid.tokenizer.joint.JointTokenizer` that is trained.
    """

    dataset_class = JointDataset
    trainer_class = JointTrainer

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.joint = copy.deepcopy(dataset.joint)
        self.settings = self.joint.settings
        if self.settings != JointSettings.from_config(config):
            raise ValueError(
                "the dataset was built with other joint_ settings than the model: build both from one Config"
            )
        first_tokens = torch.tensor([first for first, _ in self.vocabularies[:-1]])
        self.register_buffer("first_tokens", first_tokens.to(config["device"]), persistent=False)
        self.register_buffer("first_codes", self._content_codes())
        self.register_buffer("first_distinct", torch.tensor(distinct_codes(self._nearest())))

    @classmethod
    def check_settings(cls, config):
        super().check_settings(config)
        tokenizer, settings = config["tokenizer"], JointSettings.from_config(config)
        trained_encoder = settings.encoder_learning_rate > 0
        for key, usable, allowed in (
            ("sid_file", not config["sid_file"], "empty: the codebooks are trained, and a table has none"),
            ("tokenizer", tokenizer in TRAINABLE_TOKENIZERS, f"one with residuals: {', '.join(TRAINABLE_TOKENIZERS)}"),
            ("sid_normalize_residuals", not config["sid_normalize_residuals"], "false: plain residuals are trained"),
            ("sid_collisions", config["sid_collisions"] == "suffix", "suffix, which is counted anew as codes move"),
            ("joint_encoder_learning_rate", tokenizer == "rqvae" or not trained_encoder,
             f"0: tokenizer {tokenizer} has no encoder"),
        ):  # fmt: skip
            if not usable:
                raise ValueError(f"{key}={config[key]!r} is not usable with {cls.__name__}: it must be {allowed}")

    # --------------------------------------------------------------- training

    def own_parameter_groups(self):
        settings, joint = self.settings, self.joint
        # A rate of "auto" is set when the number of updates is known.
        of_codebooks = 0.0 if settings.codebook_learning_rate == "auto" else settings.codebook_learning_rate
        groups = [
            ("codebooks", [joint.codebooks], of_codebooks),
            ("encoder", list(joint.encoder.parameters()), settings.encoder_learning_rate),
        ]
        if joint.exploration.is_learnt:
            groups.append(("sigma", [joint.exploration.sigma], settings.sigma_learning_rate))
        return [
            {"name": name, "params": parameters, "lr": rate, "weight_decay": 0.0}
            for name, parameters, rate in groups
            if any(parameter.requires_grad for parameter in parameters)
        ]

    def losses(self, interaction):
        """The weighted terms of the training loss of a batch, by name."""
        codes = self.codes[interaction[self.ITEM_ID]]
        if self.settings.is_two_stage:
            return {"generation": self.cross_entropy(self.target_logits(interaction), codes)}
        settings, targets = self.settings, interaction[self.ITEM_ID]
        items = torch.cat([interaction[self.ITEM_SEQ].flatten(), targets]).unique()
        items = items[items > 0]
        with torch.autocast(self.codes.device.type, enabled=False):
            quantised = self.joint(items, self._content_codes(items))
        table = self.codes
        if settings.forward == "sampled":
            table = table.clone()
            table[items, :-1] = quantised.codes + self.first_tokens
            codes = table[targets]
        soft, paths = quantised.soft, settings.gradient_paths
        hard_tokens = self.tokens._replace(codes=table)
        soft_tokens = self._soft_tokens(table, items, soft) if {"history", "teacher"} & set(paths) else None
        history, teacher = (soft_tokens if path in paths else hard_tokens for path in ("history", "teacher"))
        logits = self.target_logits(interaction, history, teacher)
        row = torch.searchsorted(items, targets)
        generation = self.cross_entropy(logits, codes)
        if "label" in paths:
            generation = generation + label_gradient(logits, soft[row]) / codes.numel()
        terms = {
            "generation": generation,
            "quantisation": settings.quantisation_weight * quantised.quantisation[row].mean(),
            "reconstruction": settings.reconstruction_weight * quantised.reconstruction[row].mean(),
        }
        of_sigma = self.joint.exploration.follow(generation)
        return terms if of_sigma is None else {**terms, "sigma": of_sigma}

    def calculate_loss(self, interaction):
        """The recommendation loss (mean per token, in nats), the quantiser's two losses, and that of a learnt σ."""
        return sum(self.losses(interaction).values())

    def _soft_tokens(self, table, items, soft):
        """The codes ``table`` as the generator reads them, with a gradient to their distributions.

        Each token of each of the ``items`` ``[n]`` gets a vector of its own: in value its embedding, in the backward
        pass that of the distribution ``soft`` ``[n, L, V]``.
        """
        weight = self.token_embedding.weight
        vectors = F.embedding(table[items], weight)
        with torch.autocast(self.codes.device.type, enabled=False):
            gradient = [
                carry(soft[:, level], weight[first:end]) for level, (first, end) in enumerate(self.vocabularies[:-1])
            ]
        gradient = F.pad(torch.stack(gradient, 1), (0, 0, 0, 1))  # a suffix has none
        vectors = torch.cat([(vectors + gradient).flatten(0, 1), weight[self.start_token :]])
        places = torch.full_like(table, PAD)
        start = table.size(1) * len(items)
        places[items] = torch.arange(start, device=table.device).view(len(items), -1)
        return Tokens(places, partial(F.embedding, weight=vectors), start)

    # ------------------------------------------------------------------ table

    def _content_codes(self, items=slice(1, None)):
        """Content codes of ``items`` in the table, each level from 0; all items by default."""
        return self.codes[items, :-1] - self.first_tokens

    def _nearest(self):
        return self.joint.assign("nearest").cpu().numpy()

    def refresh_table(self):
        """Make the table anew from the codebooks as they are.

        Returns:
            dict: the shares of items whose semantic ID changed, ``drift``, and whose content code did,
            ``content_drift``.

        Raises:
            ValueError: more items share a code than there are suffixes.
        """
        before = self.semantic_ids
        table = next_table(before, self.joint.assign().cpu().numpy(), self.settings.suffix_policy)
        self.use_table(table, self.codes.device)
        return {
            "drift": changed_share(table.codes[1:], before.codes[1:]),
            "content_drift": changed_share(table.codes[1:, :-1], before.codes[1:, :-1]),
        }

    @torch.no_grad()
    def diagnostics(self):
        """Health of the codes: number of distinct ones, use per level, distance from the start, noise.

        ``nearest`` is the codeword each item is closest to, ``sinkhorn`` the balanced assignment, which spreads items
        over dead codewords too: only the former shows a collapse. ``sinkhorn`` is the table's own, as of its making,
        or that of a sample of the items where the table has nearest codes.
        """
        nearest, table = self._nearest(), self._content_codes().cpu().numpy()
        sinkhorn = table
        if self.settings.assignment != "sinkhorn":
            sinkhorn = self.joint.assign("sinkhorn", self.joint.sample()).cpu().numpy()
        first = self.first_codes.cpu().numpy()
        figures = {
            "distinct_nearest": distinct_codes(nearest),
            "distinct_nearest_share": distinct_codes(nearest) / int(self.first_distinct),
            "distinct_table": distinct_codes(table),
            "content_drift_since_start": changed_share(table, first),
            "suffixes_used": float(self.semantic_ids.codes[1:, -1].max() + 1) / self.semantic_ids.vocab_sizes[-1],
            "sigma": float(self.joint.exploration.sigma),
        }
        agreement, hot = self.joint.agreement()
        per_level = {
            "used_nearest": used_codes(nearest),
            "effective_nearest": effective_codes(nearest),
            "used_sinkhorn": used_codes(sinkhorn),
            "effective_sinkhorn": effective_codes(sinkhorn),
            "agreement": agreement,
            "hot": hot,
        }
        for name, values in per_level.items():
            figures |= {f"{name}_{level}": value for level, value in enumerate(values, start=1)}
        return figures


def label_gradient(logits, soft):
    """Zero, with the gradient of −⟨distribution, log-probability⟩ summed over targets and levels.

    Args:
        logits: of each position ``[B, V]``, the suffix's last.
        soft: distributions of the targets ``[B, L, V]``.
    """
    return -sum(
        ((soft[:, level] - soft[:, level].detach()) * of_level.detach().log_softmax(1)).sum()
        for level, of_level in enumerate(logits[:-1])
    )
