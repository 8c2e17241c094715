"""Training of this package's models: learning-rate schedule, parameter groups, averaged weights, bf16 autocast, and a
``last`` checkpoint that holds all that an exact continuation needs.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from recbole.trainer import Trainer
from recbole.utils import get_trainer

from recbole_vsid.averaging import WeightAverage
from recbole_vsid.checkpoint import PROGRESS, check_optimizer, check_weights, read_continuation
from recbole_vsid.optimizer import MuonAdamW
from recbole_vsid.protocol_trainer import ProtocolTrainerMixin, floats, run_folder
from recbole_vsid.randomness import random_state, restore_random_state
from recbole_vsid.scalars import write_table, write_training, write_values
from recbole_vsid.schedule import Scheduled, share_of_peak
from recbole_vsid.storage import save_checkpoint

__all__ = ["GenerativeTrainer", "ProtocolTrainerMixin", "run_folder", "trainer_class"]


class GenerativeTrainer(ProtocolTrainerMixin, Trainer):
    """Trainer of this package's models.

    Settings: ``learner`` (RecBole's, or ``muon`` with ``muon_learning_rate`` for the model's hidden matrices and AdamW
    for the rest), ``learning_rate``, ``warmup_fraction`` and ``min_learning_rate_ratio`` (linear warm-up, then cosine,
    over the planned epochs), ``weight_decay`` (AdamW's matrices only), ``clip_grad_norm``, ``enable_amp`` (bf16),
    ``ema_decay`` (:class:`~recbole_vsid.averaging.WeightAverage`: what is evaluated and saved as ``best.pth``),
    ``valid_users`` and ``valid_beam_width`` (validation during training on a fixed sample with a narrower beam; what is
    reported is always measured on everybody at full width).
    """

    progress_fields = PROGRESS  # what a continuation takes over, see `_progress` and `_continue`

    def __init__(self, config, model):
        super().__init__(config, model)
        self.average = WeightAverage(model, config["ema_decay"])
        self._valid_sample = None
        self.loss_sums = defaultdict(float)
        self._last_terms = {}
        if self.eval_step > 0:
            asked, self.eval_step = self.eval_step, _validation_step(self.epochs, self.eval_step)
            if self.eval_step != asked:
                self.logger.info(f"eval_step={self.eval_step} instead of {asked}, so that the last epoch is validated")

    def _build_optimizer(self, **kwargs):
        muon = self.model.hidden_matrices() if self.learner.lower() == "muon" else []
        embeddings = [module.weight for module in self.model.modules() if isinstance(module, torch.nn.Embedding)]
        own = self.model.own_parameter_groups()
        elsewhere = {id(parameter) for parameter in muon} | {id(each) for group in own for each in group["params"]}
        embedded = {id(parameter) for parameter in embeddings}
        decayed, plain = [], []
        for parameter in self.model.parameters():
            if id(parameter) not in elsewhere:
                decays = parameter.ndim > 1 and id(parameter) not in embedded
                (decayed if decays else plain).append(parameter)
        groups = [
            {"name": "matrices", "params": decayed, "weight_decay": self.weight_decay},
            {"name": "embeddings", "params": plain, "weight_decay": 0.0},
            *own,
        ]
        if muon:
            rate = self.config["muon_learning_rate"]
            groups.append({"name": "muon", "params": muon, "muon": True, "lr": rate, "weight_decay": 0.0})
        groups = [group for group in groups if group["params"]]
        if self.learner.lower() == "muon":
            optimizer = MuonAdamW(groups, lr=self.learning_rate)
        else:
            optimizer = super()._build_optimizer(params=groups, **kwargs)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def rate(self, progress):
        """Share of the peak learning rate after ``progress`` (0..1) of the planned training."""
        return share_of_peak(progress, self.config["warmup_fraction"], self.config["min_learning_rate_ratio"])

    def _examples(self, train_data):
        return train_data.n_targets

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        train_data.set_epoch(epoch_idx)
        self.loss_sums.clear()
        self._n_updates = len(train_data)
        return super()._train_epoch(Scheduled(self, train_data, epoch_idx), epoch_idx, self._loss, show_progress)

    def _loss(self, interaction):
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.enable_amp):
            terms = self.model.losses(interaction)
        return self._summed(terms)

    def _summed(self, terms):
        self._last_terms = {name: value.detach() for name, value in terms.items()}
        for name, value in self._last_terms.items():
            self.loss_sums[name] += value  # on the device: no waiting for it
        return sum(terms.values())

    def _terms(self, loss):
        return {**self._last_terms, "sum": loss}

    def _watched(self):
        yield from super()._watched()
        for name, average in self.average.named():
            yield f"the averaged weight {name!r}", average

    def _add_train_loss_to_tensorboard(self, epoch_idx, losses, tag="Loss/Train"):
        super()._add_train_loss_to_tensorboard(epoch_idx, losses, tag)
        if epoch_idx == self.start_epoch:
            write_table(self.tensorboard, self.model.tokenizer_report, epoch_idx)
        speed = self.trained_examples / max(self.train_seconds, 1e-9)
        write_training(self.tensorboard, self.mean_losses(), self.optimizer.param_groups, speed, epoch_idx)

    def mean_losses(self):
        """The terms of the loss, name → mean over the updates of the last epoch."""
        return {name: float(total) / self._n_updates for name, total in self.loss_sums.items()}

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        with nullcontext() if load_best_model else self.average.applied():
            return super().evaluate(eval_data, load_best_model, model_file, show_progress)

    def _restore(self, checkpoint):
        super()._restore(checkpoint)
        self.average.reset()

    # -------------------------------------------------------------- validation

    def _log_diagnostics(self):
        with self.average.applied():
            diagnostics = self.model.diagnostics()
        if diagnostics:
            self.logger.info("  ".join(f"{name} : {value:.4f}" for name, value in diagnostics.items()))
            write_values(self.tensorboard, "Diagnostics", diagnostics, max(self.train_loss_dict))

    def _valid_epoch(self, valid_data, show_progress=False):
        self._log_diagnostics()
        full_width, self.model.beam_width = self.model.beam_width, self._valid_beam_width()
        try:
            return super()._valid_epoch(self._sample(valid_data), show_progress)
        finally:
            self.model.beam_width = full_width

    def _sample(self, valid_data):
        """``valid_data``, or ``valid_users`` users of it, the same in all epochs."""
        if self._valid_sample is None:
            dataset, wanted = valid_data._dataset, self.config["valid_users"]
            self._valid_sample = valid_data
            if 0 < wanted < len(dataset):
                chosen = np.random.default_rng(self.config["seed"]).choice(len(dataset), wanted, replace=False)
                sample = dataset.copy(dataset.inter_feat[np.sort(chosen)])
                self._valid_sample = type(valid_data)(self.config, sample, valid_data._sampler)
        return self._valid_sample

    def _memory_settings(self):
        beam = f", beam_width={self.config['beam_width']}" if self.config["decoding"] == "beam" else ""
        return super()._memory_settings() + beam

    def _reductions(self, valid_data):
        n_users, users, width = valid_data.sample_size, self.config["valid_users"], self._valid_beam_width()
        fewer = [f"{users:,} of {n_users:,} users"] if 0 < users < n_users else []
        narrower = self.config["decoding"] == "beam" and width < self.config["beam_width"]
        return fewer + ([f"beam {width}"] if narrower else [])

    def _valid_beam_width(self):
        """``valid_beam_width``, but never too narrow to fill the ranking nor wider than ``beam_width``."""
        width = self.config["beam_width"]
        return min(max(self.config["valid_beam_width"] or width, max(self.config["topk"])), width)

    def validation_result(self, valid_data):
        if self.best_protocols is None or not self._reductions(valid_data):
            return self.best_protocols
        return self.evaluate_protocols(valid_data, show_progress=self.config["show_progress"])

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """RecBole's ``fit``; after every validation the state of the run goes to ``last.pth``."""
        if self.start_epoch >= self.epochs or self.cur_step > self.stopping_step:
            return self.best_valid_score, self.best_valid_result  # the interrupted run had ended

        def after_validation(epoch_idx, valid_score):
            if saved:
                self.save_last(epoch_idx)
            if callback_fn:
                callback_fn(epoch_idx, valid_score)

        return super().fit(train_data, valid_data, verbose, saved, show_progress, after_validation)

    # ------------------------------------------------------------------ resume

    def _void_files(self):
        # The first of a new run: an older run's last.pth must not be resumed beside this run's best.pth.
        new = self.start_epoch == 0 and self._best_other_parameter is None
        return (self.folder / "last.pth",) if new else ()

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        with self.average.applied():
            super()._save_checkpoint(epoch, verbose, **kwargs)

    def save_last(self, epoch):
        """Write all that an exact continuation needs to ``last.pth``, atomically; a full disk does not end the run."""
        with self.average.applied():
            state = self._checkpoint(epoch)
        state["raw_state_dict"] = self.model.state_dict()
        state["progress"] = self._progress()
        state["average_steps"] = self.average.steps
        state["optimizer"] = self.optimizer.state_dict()
        state["random"] = random_state()
        file = self.folder / "last.pth"
        try:
            save_checkpoint(file, state)
        except OSError as error:
            resume = f"--resume=true goes on from the {file.name} before" if file.is_file() else "It cannot be resumed"
            self.logger.warning(f"{error}; the run goes on. {resume}. See checkpoint_dir")
        else:
            self.saved_files.append(file)

    def _progress(self):
        """The trainer's attributes that a continuation takes over, as plain values."""
        return {
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": floats(self.best_valid_result or {}),
            "best_protocols": self.best_protocols,
            "learning_curve": self.learning_curve,
            "train_loss": {int(key): float(value) for key, value in self.train_loss_dict.items()},
            "train_seconds": self.train_seconds,
            "trained_examples": self.trained_examples,
        }

    def resume_checkpoint(self, resume_file):
        """Continue from a ``last.pth``: weights and their average, optimizer, schedule, random states, early stopping.

        Nothing is changed unless all of it can be used.

        Raises:
            ValueError: the file is damaged, lacks a part or belongs to another model.
        """
        state = read_continuation(resume_file, self.progress_fields, self.device)
        if state["model"] != self.config["model"]:
            raise ValueError(f"{resume_file} is no `last` checkpoint of {self.config['model']}")
        for part in ("state_dict", "raw_state_dict"):
            check_weights(resume_file, state, self.model, part)
        check_optimizer(resume_file, state["optimizer"], self.optimizer)
        self.model.load_state_dict(state["state_dict"])
        self.average.reset(state["average_steps"])
        self.model.load_state_dict(state["raw_state_dict"])
        settings = self.optimizer.state_dict()["param_groups"]  # of this run's configuration
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": settings})
        self.start_epoch = state["epoch"] + 1
        self._continue(state["progress"])
        restore_random_state(state["random"])
        self.saved_files += [Path(self.saved_model_file), self.folder / "last.pth"]
        self.logger.info(f"Resuming after epoch {state['epoch']} from {resume_file}")

    def _continue(self, progress):
        """Take over what :meth:`_progress` gave."""
        self.cur_step, self.trained_examples = progress["cur_step"], progress["trained_examples"]
        self.best_valid_score = progress["best_valid_score"]
        self.best_valid_result, self.best_protocols = progress["best_valid_result"], progress["best_protocols"]
        self.learning_curve, self.train_loss_dict = progress["learning_curve"], progress["train_loss"]
        self.train_seconds = progress["train_seconds"]


def _validation_step(epochs, most):
    """Epochs between validations, at most ``most``, such that the last epoch, with the lowest rate, is validated."""
    return next(step for step in range(most, 0, -1) if epochs % step == 0)


def trainer_class(config):
    """The trainer class of ``config``'s model: its own, else RecBole's with the mixin."""
    own = getattr(config.model_class, "trainer_class", None)
    if own is not None:
        return own
    base = get_trainer(config["MODEL_TYPE"], config["model"])
    return type(base.__name__, (ProtocolTrainerMixin, base), {})
