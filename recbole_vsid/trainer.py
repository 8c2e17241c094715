"""Training on RecBole's trainers: both protocols, plain checkpoints, and for our models exact resume.

``ProtocolTrainerMixin`` goes over any RecBole trainer without changing what it computes.
``GenerativeTrainer`` adds what this package's models need: learning-rate schedule, parameter groups, averaged
weights, bf16 autocast, and a ``last`` checkpoint that holds all that an exact continuation needs.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from recbole.trainer import Trainer
from recbole.utils import get_trainer, set_color

from recbole_vsid.averaging import WeightAverage
from recbole_vsid.evaluation.collector import PROTOCOL_NAMES, ProtocolCollector
from recbole_vsid.optimizer import MuonAdamW
from recbole_vsid.randomness import random_state, restore_random_state
from recbole_vsid.scalars import write_table, write_training, write_validation, write_values
from recbole_vsid.schedule import Scheduled, share_of_peak
from recbole_vsid.semantic_id import SemanticIDs
from recbole_vsid.storage import load_checkpoint, save_checkpoint

PLAIN = (str, int, float, bool, type(None), torch.Tensor)


def run_folder(config):
    """Where a run keeps its files: one folder per model, dataset, seed, configuration and place of the data."""
    name = f"{config['model']}-{config['dataset']}-seed{config['seed']}-{config.run_hash()}"
    return Path(config["checkpoint_dir"]) / name


class ProtocolTrainerMixin:
    """Both evaluation protocols and checkpoints without pickle, over any RecBole trainer.

    Attributes:
        best_protocols: results of both protocols at the best validation.
        train_seconds, trained_examples: time spent in training epochs, and the targets trained in it.
        evaluation_seconds, evaluated_users: the same for the last evaluation.
        data_fingerprint: of the interactions, for the checkpoints; None if nobody has set it.
        learning_curve: per validation: epochs and training seconds so far, last training loss, validation score.
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        self.eval_collector = ProtocolCollector(config)
        self.folder = run_folder(config)
        self.saved_model_file = str(self.folder / "best.pth")
        self.best_protocols = self.data_fingerprint = None
        self.learning_curve = []
        self.train_seconds = self.evaluation_seconds = 0.0
        self.trained_examples = self.evaluated_users = 0
        self._best_other_parameter = None

    def _train_epoch(self, train_data, *args, **kwargs):
        started = time.perf_counter()
        losses = super()._train_epoch(train_data, *args, **kwargs)
        self.train_seconds += time.perf_counter() - started
        self.trained_examples += self._examples(train_data)
        return losses

    def _examples(self, train_data):
        return len(train_data._dataset)

    def _full_sort_batch_eval(self, batched_data):
        # Consumed items stay in the scores; ProtocolCollector masks them for the second protocol.
        interaction, _, positive_u, positive_i = batched_data
        return super()._full_sort_batch_eval((interaction, None, positive_u, positive_i))

    @torch.no_grad()
    def evaluate_protocols(self, eval_data, load_best_model=True, show_progress=False):
        """Metrics under both protocols: ``{"consumed_kept": {...}, "consumed_masked": {...}}``."""
        self.evaluate(eval_data, load_best_model=load_best_model, show_progress=show_progress)
        return self._protocol_results()

    def _protocol_results(self):
        return {
            name: {**_floats(self.evaluator.evaluate(struct)), "filled_share": self.eval_collector.filled_share[name]}
            for name, struct in self.eval_collector.structs.items()
        }

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """Metrics under the protocol of ``mask_history``; same contract as RecBole's."""
        if not eval_data:
            return None
        if load_best_model:
            self._load_weights(model_file or self.saved_model_file)
        dataset = eval_data._dataset
        self.eval_collector.start(dataset.consumed)
        started = time.perf_counter()
        result = super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        self.evaluation_seconds = time.perf_counter() - started
        self.evaluated_users = eval_data.sample_size
        return result

    def selected_by(self, valid_data):
        """What the weights to be tested were chosen by, in words."""
        if self.eval_step == 0:
            return "nothing: the weights of the last epoch"
        protocol = PROTOCOL_NAMES[self.eval_collector.selected]
        return ", ".join([f"{self.config['valid_metric']} on validation, {protocol}", *self._reductions(valid_data)])

    def _reductions(self, valid_data):
        """What the validations during training leave out of ``valid_data`` and of the search, in words."""
        return []

    def validation_result(self, valid_data):
        """Both protocols' metrics on all of ``valid_data`` for the chosen weights; None if there was no validation."""
        return self.best_protocols

    def _valid_epoch(self, valid_data, show_progress=False):
        score, result = super()._valid_epoch(valid_data, show_progress)
        epoch, protocols = max(self.train_loss_dict), self._protocol_results()
        write_validation(self.tensorboard, protocols, epoch)
        self.learning_curve.append(
            {
                "epoch": epoch + 1,
                "seconds": round(self.train_seconds, 2),
                "train_loss": float(self.train_loss_dict[epoch]),
                "valid_score": float(score),
            }
        )
        # RecBole's early_stopping counts an equal score as an improvement; so does this.
        better = score >= self.best_valid_score if self.valid_metric_bigger else score <= self.best_valid_score
        if better:
            self.best_protocols = protocols
        return score, result

    def _checkpoint(self, epoch):
        other = self.model.other_parameter()
        return {
            "model": self.config["model"],
            "dataset": self.config["dataset"],
            "settings": self.config.external_plain(),
            "data_fingerprint": self.data_fingerprint,
            "epoch": epoch,
            "state_dict": self.model.state_dict(),
            "other_parameter": {name: value for name, value in other.items() if isinstance(value, PLAIN)},
            "semantic_ids": pack_table(getattr(self.model, "semantic_ids", None)),
            "tokenizer_report": getattr(self.model, "tokenizer_report", None),
        }

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        # Some of RecBole's models keep NumPy or SciPy objects beside their weights; no safe file format
        # holds them, so within a run they stay in memory.
        self._best_other_parameter = copy.deepcopy(self.model.other_parameter())
        save_checkpoint(self.saved_model_file, self._checkpoint(epoch))
        if verbose:
            self.logger.info(set_color("Saving current best", "blue") + f": {self.saved_model_file}")

    def _load_weights(self, path):
        self._restore(load_checkpoint(path, self.device))

    def _restore(self, checkpoint):
        self.model.load_state_dict(checkpoint["state_dict"])
        self.model.load_other_parameter(self._best_other_parameter or checkpoint["other_parameter"])


class GenerativeTrainer(ProtocolTrainerMixin, Trainer):
    """Trainer of this package's models.

    Settings: ``learner`` (RecBole's, or ``muon`` with ``muon_learning_rate`` for the model's hidden matrices and AdamW
    for the rest), ``learning_rate``, ``warmup_fraction`` and ``min_learning_rate_ratio`` (linear warm-up, then cosine,
    over the planned epochs), ``weight_decay`` (AdamW's matrices only), ``clip_grad_norm``, ``enable_amp`` (bf16),
    ``ema_decay`` (:class:`~recbole_vsid.averaging.WeightAverage`: what is evaluated and saved as ``best.pth``),
    ``valid_users`` and ``valid_beam_width`` (validation during training on a fixed sample with a narrower beam; what is
    reported is always measured on everybody at full width).
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        self.average = WeightAverage(model, config["ema_decay"])
        self._valid_sample = None
        self.loss_sums = defaultdict(float)
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
        for name, value in terms.items():
            self.loss_sums[name] += value.detach()  # on the device: no waiting for it
        return sum(terms.values())

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

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        if self.start_epoch == 0 and self._best_other_parameter is None:
            # The first of a new run: an older run's last.pth must not be resumed beside this run's best.pth.
            (self.folder / "last.pth").unlink(missing_ok=True)
        with self.average.applied():
            super()._save_checkpoint(epoch, verbose, **kwargs)

    def save_last(self, epoch):
        """Write all that an exact continuation needs to ``last.pth``, atomically."""
        with self.average.applied():
            state = self._checkpoint(epoch)
        state["raw_state_dict"] = self.model.state_dict()
        state["progress"] = self._progress()
        state["average_steps"] = self.average.steps
        state["optimizer"] = self.optimizer.state_dict()
        state["random"] = random_state()
        save_checkpoint(self.folder / "last.pth", state)

    def _progress(self):
        """The trainer's attributes that a continuation takes over, as plain values."""
        return {
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": _floats(self.best_valid_result or {}),
            "best_protocols": self.best_protocols,
            "learning_curve": self.learning_curve,
            "train_loss": {int(key): float(value) for key, value in self.train_loss_dict.items()},
            "train_seconds": self.train_seconds,
            "trained_examples": self.trained_examples,
        }

    def resume_checkpoint(self, resume_file):
        """Continue from a ``last.pth``: weights and their average, optimizer, schedule, random states, early stopping.

        Raises:
            ValueError: the file is damaged, or belongs to another model.
        """
        state = load_checkpoint(resume_file, self.device)
        if state["model"] != self.config["model"] or "progress" not in state:
            raise ValueError(f"{resume_file} is no `last` checkpoint of {self.config['model']}")
        self.model.load_state_dict(state["state_dict"])
        self.average.reset(state["average_steps"])
        self.model.load_state_dict(state["raw_state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])
        progress = state["progress"]
        self.start_epoch = state["epoch"] + 1
        self.train_loss_dict = progress.pop("train_loss")
        for name, value in progress.items():
            setattr(self, name, value)
        restore_random_state(state["random"])
        self.logger.info(f"Resuming after epoch {state['epoch']} from {resume_file}")


def _validation_step(epochs, most):
    """Epochs between validations, at most ``most``, such that the last epoch, with the lowest rate, is validated."""
    return next(step for step in range(most, 0, -1) if epochs % step == 0)


def _floats(metrics):
    """RecBole's metrics are NumPy scalars, which no safe checkpoint holds."""
    return {name: float(value) for name, value in metrics.items()}


def trainer_class(config):
    """The trainer class of ``config``'s model: its own, else RecBole's with the mixin."""
    own = getattr(config.model_class, "trainer_class", None)
    if own is not None:
        return own
    base = get_trainer(config["MODEL_TYPE"], config["model"])
    return type(base.__name__, (ProtocolTrainerMixin, base), {})


def pack_table(table):
    """A :class:`SemanticIDs` as tensors and plain values for a checkpoint, or None."""
    if table is None:
        return None
    tensors = {name: torch.from_numpy(getattr(table, name).copy()) for name in ("codes", "lengths")}
    return {**tensors, **table.plain()}


def unpack_table(packed):
    """The :class:`SemanticIDs` that :func:`pack_table` packed; its invariants are checked again."""
    return SemanticIDs(**{**packed, "codes": packed["codes"].numpy(), "lengths": packed["lengths"].numpy()})
