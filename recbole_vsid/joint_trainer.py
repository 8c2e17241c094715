"""Training of a recommender and its tokenizer together: two clippings, a table per epoch, a watch over its codes.

After every ``joint_refresh_epochs`` epochs, before the validation if there is one, the table is made anew from the
averaged codebooks, which are what is evaluated and saved; in between, validations use the table that was trained on.
The state of the codes is logged and kept; codes that have collapsed end the run.
"""

from __future__ import annotations

import time

import torch
from torch.nn.utils import clip_grad_norm_

from recbole_vsid.checkpoint import PROGRESS, unpack_table
from recbole_vsid.scalars import write_values
from recbole_vsid.trainer import GenerativeTrainer

# A coordinate of a codeword moves by at most its learning rate per update; summed over the training that may be this
# share of the spread of the last level's codewords.
MOVEMENT_BUDGET = 0.5

# Beyond these the log warns.
FEWEST_DISTINCT, FEWEST_EFFECTIVE, LARGEST_DRIFT, FULLEST_SUFFIXES = 0.6, 0.25, 0.2, 0.8


class Collapsed(ValueError):
    """The semantic IDs have lost too many of their codes to go on."""


class JointTrainer(GenerativeTrainer):
    """Trainer of a model with ``joint``, ``losses``, ``refresh_table`` and ``diagnostics``, like DIGER.

    Settings: those of :class:`~recbole_vsid.trainer.GenerativeTrainer`, with ``clip_grad_norm`` applied to the
    recommender and to the tokenizer apart, and ``joint_codebook_learning_rate``, ``joint_encoder_learning_rate``,
    ``joint_sigma_learning_rate``, ``joint_collapse_below``.

    Attributes:
        code_watch: one dict per new table: the epoch, its means of the loss terms, the norm of the gradient that the
            recommendation loss alone has at the codebooks (first batch), drift, and the model's ``diagnostics``.
    """

    progress_fields = {**PROGRESS, "code_watch": [{str: object}]}

    def __init__(self, config, model):
        super().__init__(config, model)
        self.settings = model.settings
        self.code_watch = []
        # RecBole would clip all parameters as one.
        self.clip, self.clip_grad_norm = self.clip_grad_norm, None

    def _build_optimizer(self, **kwargs):
        optimizer = super()._build_optimizer(**kwargs)
        step = optimizer.step

        def clipped_step(*args, **kwargs):
            self._clip_apart()
            result = step(*args, **kwargs)
            self.model.joint.exploration.project()
            return result

        # Not PyTorch's step hooks: with Muon they run twice once any plain AdamW was built in the process.
        optimizer.step = clipped_step
        return optimizer

    def _clip_apart(self):
        """Clip the gradients of recommender and tokenizer each by itself; σ moves by its learning rate alone."""
        if not self.clip:
            return
        joint = self.model.joint
        tokenizer = [joint.codebooks, *joint.encoder.parameters()]
        apart = {id(parameter) for parameter in (*tokenizer, joint.exploration.sigma)}
        clip_grad_norm_(tokenizer, **self.clip)
        clip_grad_norm_([each for each in self.model.parameters() if id(each) not in apart], **self.clip)

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """As in the base class.

        Raises:
            Collapsed: fewer than ``joint_collapse_below`` of the distinct nearest codes of the start are left, or a
                group of items with one code outgrew the suffix vocabulary; what was saved before stays.
        """
        self._saved = saved
        if self.settings.codebook_learning_rate == "auto":
            self._set_codebook_rate(len(train_data))
        return super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)

    def _set_codebook_rate(self, n_batches):
        total = n_batches * self.epochs
        summed = sum(self.rate((update + 1) / total) for update in range(total))
        rate = MOVEMENT_BUDGET * float(self.model.joint.spread) / summed
        for group in self.optimizer.param_groups:
            if group["params"][0] is self.model.joint.codebooks:
                group["initial_lr"] = rate
        self.logger.info(f"joint_codebook_learning_rate: {rate:.3g} at its peak")

    # ------------------------------------------------------------------ epochs

    def start_epoch_watch(self, makes_table):
        """If a new table follows, the first batch's gradient is measured, too."""
        self._gradient_norm = None if makes_table else 0.0

    def _loss(self, interaction):
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.enable_amp):
            terms = self.model.losses(interaction)
        if self._gradient_norm is None:
            self._gradient_norm = self._norm_at_codebooks(terms["generation"])
        return self._summed(terms)

    def _norm_at_codebooks(self, loss):
        codebooks = self.model.joint.codebooks
        if not codebooks.requires_grad:
            return 0.0
        (gradient,) = torch.autograd.grad(loss, [codebooks], retain_graph=True, allow_unused=True)
        return 0.0 if gradient is None else float(gradient.norm())

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        makes_table = not self.settings.is_two_stage and (epoch_idx + 1) % self.settings.refresh_epochs == 0
        self.start_epoch_watch(makes_table)
        loss = super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
        if makes_table:
            started = time.perf_counter()
            means = {f"{name}_loss": mean for name, mean in self.mean_losses().items()}
            self._refresh({"epoch": epoch_idx, **means, "gradient_norm": self._gradient_norm})
            self.train_seconds += time.perf_counter() - started
            if self._saved and self.eval_step > 0 and (epoch_idx + 1) % self.eval_step:
                # No validation follows to save this state, and it may be the last good one.
                self.train_loss_dict[epoch_idx] = loss
                self.save_last(epoch_idx)
        return loss

    def _refresh(self, row):
        """Make the table anew and complete ``row``, what is known of the epoch."""
        with self.average.applied():
            try:
                row.update(self.model.refresh_table())
            except ValueError as overflow:
                raise self._collapsed(row["epoch"], str(overflow)) from overflow
            row.update(self.model.diagnostics())
        self.code_watch.append(row)
        write_values(self.tensorboard, "Codes", row, row["epoch"])
        self.logger.info(_in_words(row))
        for alarm in _alarms(row, self.model.semantic_ids.vocab_sizes[0]):
            self.logger.warning(f"epoch {row['epoch']}: {alarm}")
        share, least = row["distinct_nearest_share"], self.settings.collapse_below
        if share < least:
            finding = f"{share:.0%} of the distinct codes of the start are left, joint_collapse_below={least}"
            raise self._collapsed(row["epoch"], finding)

    def _collapsed(self, epoch, finding):
        kept = [str(file) for file in (self.folder / "best.pth", self.folder / "last.pth") if file.is_file()]
        return Collapsed(
            f"epoch {epoch}: the semantic IDs have collapsed: {finding}. Lower joint_codebook_learning_rate, raise "
            "joint_noise_scale, leave label out of joint_gradient_paths, or raise joint_quantisation_weight and "
            f"joint_reconstruction_weight. The last good states: {', '.join(kept) or 'none was saved'}"
        )

    def _log_diagnostics(self):
        if self.settings.is_two_stage:
            super()._log_diagnostics()

    # ------------------------------------------------------------------ states

    def _restore(self, checkpoint):
        super()._restore(checkpoint)
        self.model.use_table(unpack_table(checkpoint["semantic_ids"]), self.device)

    def _progress(self):
        return {**super()._progress(), "code_watch": self.code_watch}

    def _continue(self, progress):
        super()._continue(progress)
        self.code_watch = progress["code_watch"]


def _in_words(row):
    levels = [key.rsplit("_", 1)[1] for key in row if key.startswith("used_nearest_")]

    def joined(name, form):
        return "/".join(format(row[f"{name}_{level}"], form) for level in levels)

    return (
        f"epoch {row['epoch']} semantic IDs: {row['drift']:.1%} drifted ({row['content_drift_since_start']:.1%} of "
        f"contents since the start), distinct {row['distinct_nearest']} nearest, {row['distinct_table']} in the table, "
        f"effective codes {joined('effective_nearest', '.1f')} nearest, {joined('effective_sinkhorn', '.1f')} by "
        f"Sinkhorn, agreement {joined('agreement', '.2f')}, hot {joined('hot', '.2f')}, noise {row['sigma']:.3f}, "
        f"recommendation loss {row['generation_loss']:.4f} with gradient {row['gradient_norm']:.2g} at the codebooks"
    )


def _alarms(row, vocab_size):
    """What of an epoch's figures is out of the ordinary, in words."""
    if row["distinct_nearest_share"] < FEWEST_DISTINCT:
        yield f"only {row['distinct_nearest_share']:.0%} of the distinct nearest codes of the start are left"
    for name, value in row.items():
        if name.startswith("effective_nearest_") and value < FEWEST_EFFECTIVE * vocab_size:
            yield f"level {name.rsplit('_', 1)[1]} uses its {vocab_size} codes as unevenly as {value:.1f} equal ones"
    if row["drift"] > LARGEST_DRIFT:
        yield f"{row['drift']:.0%} of the items changed their semantic IDs"
    if row["suffixes_used"] > FULLEST_SUFFIXES:
        yield f"{row['suffixes_used']:.0%} of the disambiguation tokens are in use"
