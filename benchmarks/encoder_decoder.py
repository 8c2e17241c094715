"""TIGER beside the same model in Hugging Face transformers: users decoded and rows trained per second.

    python benchmarks/encoder_decoder.py [--size=tiger] [--beam_width=50] [--threads=2]
    python benchmarks/encoder_decoder.py --data_path=<folder> --dataset=amazon-beauty

Needs ``pip install transformers`` (measured with 5.23), which the package itself does not. The weights of a random
TIGER are copied into a ``T5ForConditionalGeneration``; all contestants work on the same users and rows, in turn, in one
process.

Decoding: histories of 20 items of 4 tokens, a catalogue of Beauty's size with random codes. ``generate`` is constrained
as is usual, by dictionaries through ``PrefixConstrainedLogitsProcessor``; before that its scores are renormalised over
the tokens of the position, as TIGER's are, so both must find the same items.

Training: forward, backward and AdamW step, dropout 0.1, on batches taken at even distances from an epoch sorted by
length. Hugging Face gets the rows of these batches in random order, padded to the longest history of a batch or to 20
items. Without ``--dataset`` the lengths of the sequences are drawn from a log-normal distribution close to Beauty's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_vsid.config import Config
from recbole_vsid.data.dataset import SemanticIDDataset
from recbole_vsid.data.sequences import EventLog
from recbole_vsid.model.tiger import TIGER
from recbole_vsid.semantic_id.table import SemanticIDs

SIZES = {
    "resid": {"hidden_size": 128, "n_layers": 4, "n_heads": 4, "head_size": 32, "inner_size": 512},
    "tiger": {"hidden_size": 128, "n_layers": 4, "n_heads": 6, "head_size": 64, "inner_size": 1024},
}
N_ITEMS, N_USERS = 12_101, 22_363
N_LEVELS, N_CODEWORDS = 3, 256
MAX_ITEMS = 20
OUR_NAMES = {  # of modules → Hugging Face's
    "token_embedding": "shared",
    "bias.table": "block.0.layer.0.SelfAttention.relative_attention_bias",
    "layers.": "block.",
    "self_norm": "layer.0.layer_norm",
    "self_attention": "layer.0.SelfAttention",
    "cross_norm": "layer.1.layer_norm",
    "cross_attention": "layer.1.EncDecAttention",
    "ff_norm": "layer.{last}.layer_norm",
    "feed_forward": "layer.{last}.DenseReluDense",
    ".norm.": ".final_layer_norm.",
}


def hugging_face():
    """The package, or a clear end."""
    try:
        import transformers
    except ImportError:
        sys.exit("this comparison needs Hugging Face transformers: pip install transformers")
    transformers.logging.set_verbosity_error()
    return transformers


# ------------------------------------------------------------------------------- model, data


@dataclass
class TrainingSplit:
    """What models and their loaders read of a dataset."""

    training: EventLog
    semantic_ids: SemanticIDs
    tokenizer_report: None = None

    def num(self, field):
        """Items, whatever the field: no model here has another one."""
        return self.semantic_ids.n_items


def random_table(item_tokens, rng, n_codewords=N_CODEWORDS):
    """Three tokens, the smaller ones more frequent, and a suffix that tells apart items that share them."""
    n_items = len(item_tokens) - 1
    content = (n_codewords * rng.random((n_items, N_LEVELS)) ** 2).astype(np.int64)
    _, group, counts = np.unique(content, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(group.ravel(), kind="stable")
    suffix = np.empty(n_items, dtype=np.int64)
    suffix[order] = np.arange(n_items) - np.repeat(np.cumsum(counts) - counts, counts)
    codes = np.vstack([np.full(N_LEVELS + 1, -1), np.column_stack([content, suffix])])
    lengths = np.r_[0, np.full(n_items, N_LEVELS + 1)]
    return SemanticIDs(codes, lengths, [n_codewords] * (N_LEVELS + 1), shared_vocabulary=False, item_tokens=item_tokens)


def generated_training_split(rng, n_codewords=N_CODEWORDS):
    """Sequences with lengths like Beauty's (131,413 rows, mean history of 6.70 items cut to 20)."""
    counts = np.r_[0, 3 + np.exp(rng.normal(0.6, 1.3, N_USERS)).astype(np.int64)]
    log = EventLog(rng.integers(1, N_ITEMS + 1, counts.sum()), np.r_[0, np.cumsum(counts)])
    return TrainingSplit(log, random_table(np.arange(N_ITEMS + 1).astype(str), rng, n_codewords))


def real_training_split(config, rng, n_codewords=N_CODEWORDS):
    """The training events of ``config``'s dataset; codes are random all the same."""
    dataset = SemanticIDDataset(config)
    dataset.restored_table = random_table(dataset.field2id_token[dataset.iid_field], rng, n_codewords), None
    training = dataset.build()[0]
    return TrainingSplit(training.training, training.semantic_ids)


def across_epoch(loader, n_batches):
    """``n_batches`` batches at even distances from an epoch sorted by length."""
    epoch = sorted(loader, key=lambda batch: batch[loader.length_field].float().mean())
    places = (np.arange(n_batches) + 0.5) / max(n_batches, 1) * len(epoch)
    return [epoch[place] for place in places.astype(int)]


def build(options):
    """A TIGER of random weights, also in its head, and the batches to train on."""
    rng = np.random.default_rng(options.seed)
    settings = {
        **SIZES[options.size],
        "tie_embeddings": False,
        "user_tokens": 0,
        "dropout_prob": 0.1,
        "train_rows": "all_prefixes",
        "train_batch_size": options.batch_size,
        "MAX_ITEM_LIST_LENGTH": MAX_ITEMS,
        "use_gpu": False,
        "seed": options.seed,
    }
    if options.data_path:
        settings["data_path"] = options.data_path
    config = Config("TIGER", options.dataset or "ml-100k", config_dict=settings)
    dataset = real_training_split(config, rng) if options.dataset else generated_training_split(rng)
    torch.manual_seed(options.seed)
    model = TIGER(config, dataset)
    nn.init.normal_(model.head.weight, std=config["hidden_size"] ** -0.5)  # zeros would score all tokens alike
    return model, across_epoch(model.train_loader(config, dataset), options.batches)


def hugging_face_twin(model, options):
    """``T5ForConditionalGeneration`` with the weights of ``model``."""
    transformers, size = hugging_face(), SIZES[options.size]
    twin = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=model.start_token + 1,
            d_model=size["hidden_size"],
            d_kv=size["head_size"],
            d_ff=size["inner_size"],
            num_layers=size["n_layers"],
            num_heads=size["n_heads"],
            dropout_rate=0.1,
            tie_word_embeddings=False,
            pad_token_id=model.start_token,
            decoder_start_token_id=model.start_token,
            eos_token_id=None,
            attn_implementation=options.attention,
        )
    )
    head = F.pad(model.head.weight.detach(), (0, 0, 0, 1))  # a row for the start token, which no position allows
    twin.lm_head.weight = nn.Parameter(head)  # transformers 5 ties the head whatever its configuration says
    weights = {"lm_head.weight": head}
    for name, weight in model.named_parameters():
        if name != "head.weight":
            for ours, theirs in OUR_NAMES.items():
                name = name.replace(ours, theirs.format(last=2 if name.startswith("decoder") else 1))
            weights[name] = weight
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    assert not unexpected and all("embed_tokens" in name for name in missing)  # those are `shared`
    return twin


# ------------------------------------------------------------------------------ contestants


def autocast(bf16):
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16)


def median_seconds(contestants, repeats):
    """Of each named function, called in turn ``repeats`` times after one unmeasured round."""
    seconds = {name: [] for name in contestants}
    for _ in range(repeats + 1):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(measured[1:]) for name, measured in seconds.items()}


def flat_tokens(model, items):
    """Codes of ``items`` ``[B, n]`` side by side, ``[B, 4 n]``, the start token for padding."""
    tokens = model.codes[items].flatten(1)
    return tokens.masked_fill(tokens < 0, model.start_token)


def plain_generator(model, twin, items, options):
    """``generate(bf16)``: ranked items of each user, a list of lists."""
    codes = {tuple(code): item for item, code in enumerate(model.codes.tolist()) if item}
    allowed = {}
    for code in codes:
        for position, token in enumerate(code):
            allowed.setdefault(code[:position], set()).add(token)
    allowed = {prefix: list(tokens) for prefix, tokens in allowed.items()}

    def allowed_tokens(_, prefix):
        # A beam wider than the first level also holds places without any prefix of a code.
        return allowed.get(tuple(prefix[1:].tolist()), [model.start_token])

    def own_vocabulary(prefixes, scores):
        first, end = model.vocabularies[prefixes.size(1) - 1]
        return scores - scores[:, first:end].logsumexp(-1, keepdim=True)

    constrained = hugging_face().PrefixConstrainedLogitsProcessor(allowed_tokens, options.beam_width)

    def generate(bf16=False):
        ranked = []
        for part in flat_tokens(model, items).split(options.users_at_once):
            with autocast(bf16):
                sequences = twin.generate(
                    input_ids=part,
                    attention_mask=(part != model.start_token).long(),
                    num_beams=options.beam_width,
                    num_return_sequences=options.beam_width,
                    max_new_tokens=N_LEVELS + 1,
                    do_sample=False,
                    early_stopping=True,
                    logits_processor=[own_vocabulary, constrained],
                )
            found = [codes[tuple(sequence)] for sequence in sequences[:, 1:].tolist()]
            ranked += [found[i : i + options.beam_width] for i in range(0, len(found), options.beam_width)]
        return ranked

    return generate


def measure_decoding(model, twin, options):
    for each in (model, twin):
        each.eval()
    model.beam_width = options.beam_width
    rng = np.random.default_rng(options.seed)
    items = torch.from_numpy(rng.integers(1, model.semantic_ids.n_items, (options.users, MAX_ITEMS)))
    rows = {model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: torch.full((options.users,), MAX_ITEMS)}
    theirs = plain_generator(model, twin, items, options)

    def ours(bf16=False):
        model.bf16 = bf16
        return model.topk(rows, options.beam_width)[0].tolist()

    seconds = median_seconds(
        {
            "Hugging Face, fp32": theirs,
            "Hugging Face, bf16": lambda: theirs(bf16=True),
            "this package, fp32": ours,
            "this package, bf16": lambda: ours(bf16=True),
        },
        options.repeats,
    )
    print_rates(f"decoding, beam {options.beam_width}, {options.users} users", "users/s", options.users, seconds)
    same = sum(one[:10] == other[:10] for one, other in zip(theirs(), ours()))
    print(f"same first ten items (fp32): {same} of {options.users} users")


def training_inputs(model, items, targets):
    """What Hugging Face's model takes, for histories ``[B, n]`` and targets ``[B]``."""
    tokens = flat_tokens(model, items)
    mask = (tokens != model.start_token).long()
    return {"input_ids": tokens, "attention_mask": mask, "labels": model.codes[targets]}


@torch.no_grad()
def losses_alike(model, twin, batch):
    """Both models' loss without dropout, Hugging Face's over the tokens of each position as TIGER's is."""
    for each in (model, twin):
        each.eval()
    inputs = training_inputs(model, F.pad(batch[model.ITEM_SEQ], (0, 1)), batch[model.ITEM_ID])
    logits, labels = twin(**inputs).logits, inputs["labels"]
    terms = [
        F.cross_entropy(logits[:, position, first:end], labels[:, position] - first)
        for position, (first, end) in enumerate(model.vocabularies)
    ]
    return float(model.calculate_loss(batch)), float(sum(terms) / len(terms))


def measure_training(model, twin, batches, options):
    ours_before, theirs_before = losses_alike(model, twin, batches[0])
    for each in (model, twin):
        each.train()
    lengths = torch.cat([batch[model.ITEM_SEQ_LEN] for batch in batches])
    targets = torch.cat([batch[model.ITEM_ID] for batch in batches])
    histories = [batch[model.ITEM_SEQ] for batch in batches]
    items = torch.cat([F.pad(rows, (0, MAX_ITEMS - rows.size(1))) for rows in histories])
    generator = torch.Generator().manual_seed(options.seed)
    shuffled = torch.randperm(len(items), generator=generator).split(options.batch_size)

    def update(optimizer, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def ours(bf16=False):
        for batch in batches:
            with autocast(bf16):
                loss = model.calculate_loss(batch)
            update(our_optimizer, loss)

    def theirs(bf16=False, to_longest=False):
        for rows in shuffled:
            width = int(lengths[rows].max()) if to_longest else MAX_ITEMS
            with autocast(bf16):
                loss = twin(**training_inputs(model, items[rows, :width], targets[rows])).loss
            update(their_optimizer, loss)

    our_optimizer, their_optimizer = (torch.optim.AdamW(each.parameters(), lr=1e-3) for each in (model, twin))
    seconds = median_seconds(
        {
            "Hugging Face, fp32, padded to the longest": lambda: theirs(to_longest=True),
            "Hugging Face, fp32, padded to 20 items": theirs,
            "Hugging Face, bf16, padded to the longest": lambda: theirs(bf16=True, to_longest=True),
            "Hugging Face, bf16, padded to 20 items": lambda: theirs(bf16=True),
            "this package, fp32": ours,
            "this package, bf16": lambda: ours(bf16=True),
        },
        options.repeats,
    )
    print_rates(
        f"training, {len(batches)} batches, history {lengths.float().mean():.1f} items", "rows/s", len(items), seconds
    )
    print(f"loss before training, without dropout: {ours_before:.6f}, Hugging Face {theirs_before:.6f}")


def print_rates(title, unit, amount, seconds):
    """Amount per second, and as a multiple of the first contestant's."""
    first = next(iter(seconds.values()))
    print(f"\n{title:50s} {unit:>10s}")
    for name, needed in seconds.items():
        print(f"{name:50s} {amount / needed:10,.1f} {first / needed:7.1f}x")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiger", help="tiger: the paper's; resid: the defaults here")
    parser.add_argument("--users", type=int, default=64, help="to decode; 0: none")
    parser.add_argument("--users_at_once", type=int, default=16, help="in one call of generate (this package: all)")
    parser.add_argument("--beam_width", type=int, default=50)
    parser.add_argument("--batches", type=int, default=6, help="to train on; 0: none")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa", help="Hugging Face's")
    parser.add_argument("--data_path", help="folder of the dataset")
    parser.add_argument("--dataset", help="whose training split to train on; without it rows are generated")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers = hugging_face()
    model, batches = build(options)
    twin = hugging_face_twin(model, options)

    ours, theirs = (sum(weight.numel() for weight in each.parameters()) for each in (model, twin))
    print(f"{options.size}: {SIZES[options.size]}")
    print(f"{ours:,} parameters, Hugging Face {theirs:,}; {model.semantic_ids.n_items - 1:,} items")
    print(
        f"PyTorch {torch.__version__}, transformers {transformers.__version__} ({options.attention} attention), "
        f"{torch.get_num_threads()} threads, CPU; median of {options.repeats}"
    )
    if options.users:
        measure_decoding(model, twin, options)
    if options.batches:
        measure_training(model, twin, batches, options)


if __name__ == "__main__":
    main()
