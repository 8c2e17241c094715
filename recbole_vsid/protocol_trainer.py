"""Over any of RecBole's trainers: both protocols, plain checkpoints, and evaluations that fit into the memory."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import torch
from recbole.utils import set_color

from recbole_vsid.checkpoint import check_weights, pack_table, read_weights
from recbole_vsid.evaluation.collector import PROTOCOL_NAMES, ProtocolCollector
from recbole_vsid.finiteness import FiniteTrainingMixin
from recbole_vsid.journal import ForgivingWriter
from recbole_vsid.memory import is_out_of_memory, told_what_to_lower
from recbole_vsid.scalars import write_validation
from recbole_vsid.storage import save_checkpoint

PLAIN = (str, int, float, bool, type(None), torch.Tensor)


def run_folder(config):
    """Where a run keeps its files: one folder per model, dataset, seed, configuration and place of the data."""
    name = f"{config['model']}-{config['dataset']}-seed{config['seed']}-{config.run_hash()}"
    return Path(config["checkpoint_dir"]) / name


class ProtocolTrainerMixin(FiniteTrainingMixin):
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
        self.tensorboard = ForgivingWriter(self.tensorboard)
        self.eval_collector = ProtocolCollector(config)
        self.folder = run_folder(config)
        self.saved_model_file = str(self.folder / "best.pth")
        self.best_protocols = self.data_fingerprint = None
        self.learning_curve = []
        self.train_seconds = self.evaluation_seconds = 0.0
        self.trained_examples = self.evaluated_users = 0
        self._best_other_parameter = None
        self._in_halves, self._users_without_order = False, 0

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
        batch = super()._full_sort_batch_eval((interaction, None, positive_u, positive_i))
        best = batch[1].amax(dim=1)  # NaN if one of the scores is
        self._users_without_order += (~best.isfinite()).sum()
        return batch

    @torch.no_grad()
    def evaluate_protocols(self, eval_data, load_best_model=True, show_progress=False):
        """Metrics under both protocols: ``{"consumed_kept": {...}, "consumed_masked": {...}}``."""
        self.evaluate(eval_data, load_best_model=load_best_model, show_progress=show_progress)
        return self._protocol_results()

    def _protocol_results(self):
        return {
            name: {**floats(self.evaluator.evaluate(struct)), "filled_share": self.eval_collector.filled_share[name]}
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
        with told_what_to_lower("evaluation, even with half of the users at once,", self._memory_settings()):
            result = self._evaluate_in_memory(eval_data, show_progress)
        self.evaluation_seconds = time.perf_counter() - started
        self.evaluated_users = eval_data.sample_size
        self._check_scores()
        return result

    def _evaluate_in_memory(self, eval_data, show_progress):
        """RecBole's ``evaluate``; from the first time on that memory runs out, with half of the users at once."""
        self._users_without_order = 0
        if not self._in_halves:
            try:
                return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._in_halves = True
            # Not in the handler, which would keep all that the error's frames hold.
            self.logger.warning("Evaluation ran out of memory; from here on with half of eval_batch_size")
            torch.cuda.empty_cache()
            self.eval_collector.get_data_struct()  # forgets the batches so far
            self.eval_collector.start(eval_data._dataset.consumed)
            self._users_without_order = 0
            self.test_batch_size = max(1, self.test_batch_size // 2)
        eval_data.batch_sampler.batch_size = max(1, eval_data.step // 2)
        return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)

    def _memory_settings(self):
        return f"eval_batch_size={self.config['eval_batch_size']}"

    def _check_scores(self):
        """Refuse an evaluation in which no user has a ranking; warn if some have none.

        Raises:
            ValueError: nobody's scores are finite.
        """
        without, users = int(self._users_without_order), self.evaluated_users
        finding = f"{self.config['model']} gives NaN, infinite or no scores to {without:,} of {users:,} users"
        if without >= users:
            raise ValueError(f"{finding}: nothing can be ranked by them")
        if without:
            self.logger.warning(f"{finding}: they count as misses")

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
        voids = self._void_files()
        self._best_other_parameter = copy.deepcopy(self.model.other_parameter())
        try:
            save_checkpoint(self.saved_model_file, self._checkpoint(epoch), voids)
        except OSError as error:
            raise OSError(f"{error}; make room, or set another checkpoint_dir") from error
        self.saved_files.append(Path(self.saved_model_file))
        if verbose:
            self.logger.info(set_color("Saving current best", "blue") + f": {self.saved_model_file}")

    def _void_files(self):
        """Files that must not be there together with the checkpoint that is saved next."""
        return ()

    def _load_weights(self, path):
        checkpoint = read_weights(path, self.device)
        check_weights(path, checkpoint, self.model)
        self._restore(checkpoint)

    def _restore(self, checkpoint):
        self.model.load_state_dict(checkpoint["state_dict"])
        self.model.load_other_parameter(self._best_other_parameter or checkpoint["other_parameter"])


def floats(metrics):
    """RecBole's metrics are NumPy scalars, which no safe checkpoint holds."""
    return {name: float(value) for name, value in metrics.items()}
