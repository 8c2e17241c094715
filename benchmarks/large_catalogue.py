"""Time and memory of a tokenizer on a catalogue that stays on disk.

    python benchmarks/large_catalogue.py --tokenizer=rkmeans [--items=1000000] [--dimensions=128] [--vocab_size=256]
    python benchmarks/large_catalogue.py --tokenizer=vlsid --updates=2000

Item vectors are drawn around the centres of clusters within clusters and written part by part into a .npy file in
a temporary folder; popularity is Zipf's and independent of them. A fresh process maps the file, fits and encodes, so
that its peak memory is that of the tokenizer alone. The peak counts the pages of the file that were read, too, although
the system could take those back at any time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from recbole_vsid.data.hook import peak_memory
from recbole_vsid.registry import get_tokenizer
from recbole_vsid.tokenizer.base import TokenizerInput

N_TOP, N_SUB = 500, 40
ROWS_AT_ONCE = 2**16
EVENTS_PER_ITEM = 10


def write_vectors(path, n_items, d, seed):
    """Write float32 ``[n_items + 1, d]``, row 0 zeros; as a plain file, so that no page of it is mapped."""
    rng = np.random.default_rng(seed)
    top = rng.standard_normal((N_TOP, d), dtype=np.float32)
    sub = top.repeat(N_SUB, axis=0) + 0.8 * rng.standard_normal((N_TOP * N_SUB, d), dtype=np.float32)
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n_items + 1, d)}
        np.lib.format.write_array_header_1_0(file, header)
        np.zeros(d, dtype=np.float32).tofile(file)
        for start in range(0, n_items, ROWS_AT_ONCE):
            cluster = rng.integers(0, len(sub), min(ROWS_AT_ONCE, n_items - start))
            (sub[cluster] + 0.7 * rng.standard_normal((len(cluster), d), dtype=np.float32)).tofile(file)


def zipf_counts(n_items, seed):
    """Training events per item, int64 ``[n_items + 1]``, 0 for row 0."""
    rng = np.random.default_rng(seed)
    share = 1 / rng.permutation(np.arange(1, n_items + 1))
    return np.r_[0, rng.multinomial(EVENTS_PER_ITEM * n_items, share / share.sum())]


def measure(path, options):
    """Fit and encode; plain figures."""
    torch.set_num_threads(options.threads)
    embedding = np.load(path, mmap_mode="r")
    start = peak_memory()
    data = TokenizerInput(
        embedding, zipf_counts(len(embedding) - 1, options.seed), np.arange(len(embedding)).astype(str)
    )
    tokenizer_class = get_tokenizer(options.tokenizer)
    chosen = {"sid_vocab_size": options.vocab_size, "sid_updates": options.updates, "sid_on_collapse": "warn"}
    accepted = set(tokenizer_class.Settings.keys())
    known = {key: value for key, value in chosen.items() if key in accepted}
    tokenizer = tokenizer_class(tokenizer_class.Settings.from_config(known), seed=options.seed, show_progress=True)
    started = time.perf_counter()
    tokenizer.fit(data)
    fitted, after_fit = time.perf_counter(), peak_memory()
    table = tokenizer.encode(data)
    encoded = time.perf_counter()
    return {
        "fit seconds": fitted - started,
        "encode seconds": encoded - fitted,
        "items that share a content code": table.provenance["collisions"]["item_share"],
        "largest group": table.provenance["collisions"]["largest_group"],
        "peak MB before": start,
        "peak MB after fit": after_fit,
        "peak MB": peak_memory(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="rkmeans")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--vocab_size", type=int, default=256)
    parser.add_argument("--updates", type=int, default=2_000, help="of the tokenizers that are trained by gradients")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "content.npy"
        write_vectors(path, options.items, options.dimensions, options.seed)
        print(f"{options.items:,} x {options.dimensions} float32: {path.stat().st_size / 2**30:.2f} GiB on disk")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh_process:
            figures = fresh_process.submit(measure, path, options).result()
    print(f"{options.tokenizer}, {options.vocab_size} codewords, {options.threads} threads, CPU")
    for name, value in figures.items():
        print(f"{name:32s} {value:10,.3f}")


if __name__ == "__main__":
    main()
