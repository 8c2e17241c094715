"""The dataset of models that go on training the tokenizer: it keeps what they start from."""

from __future__ import annotations

from recbole_vsid.data.dataset import SemanticIDDataset
from recbole_vsid.data.hook import fit_tokenizer, item_tokens
from recbole_vsid.semantic_id.diagnostics import diagnose
from recbole_vsid.semantic_id.moving import first_table
from recbole_vsid.tokenizer.defaults import auto_vocab_size
from recbole_vsid.tokenizer.joint import JointSettings, JointTokenizer

# The model keeps the tokenizer as its module `joint`.
STATE_PREFIX = "joint."


class JointDataset(SemanticIDDataset):
    """Sequential dataset with a table that will change.

    Attributes:
        joint: :class:`~recbole_vsid.tokenizer.joint.JointTokenizer` to start from; of a restored run one without
            values, which its checkpoint brings.
    """

    def build(self):
        datasets = super().build()
        if self.restored_state is not None:
            state = {name.removeprefix(STATE_PREFIX): value for name, value in self.restored_state.items()
                     if name.startswith(STATE_PREFIX)}  # fmt: skip
            self.joint = JointTokenizer.like(state, JointSettings.from_config(self.config))
        for dataset in datasets:
            dataset.joint = self.joint
        return datasets

    def tokenize(self):
        """The first table, of the fitted tokenizer's codebooks, and its description."""
        config, fitted = self.config, fit_tokenizer(self)
        settings = JointSettings.from_config(config)
        self.joint = JointTokenizer.start(fitted.tokenizer, fitted.embedding, settings)
        codes = self.joint.assign().cpu().numpy()
        suffixes = config["sid_suffix_size"]
        if suffixes == "auto":
            suffixes = auto_vocab_size(len(codes))
        provenance = {**fitted.table.provenance, "assignment": settings.assignment}
        table = first_table(codes, self.joint.codebooks.size(1), suffixes, item_tokens(self), provenance)
        errors = fitted.tokenizer.prefix_errors(fitted.embedding[1:], codes)
        report = diagnose(table, self.popularity(), errors, fitted.embedding, self.training, config["seed"])
        return table, {**fitted.report, **report}
