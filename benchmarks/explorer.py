"""The explorer in headless Chromium: size, time to load, to search, and to open the tree down to an item.

    python benchmarks/explorer.py --page=saved/semantic_ids/<name>.explorer.html --search=shampoo
    python benchmarks/explorer.py --n_items=100000

Without a page one is made of random codes, three levels of 256 codewords and a suffix. Times are medians of the rounds,
as the page itself measures them; needs chromium, chromedriver and the extra [test].
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from recbole_vsid.explorer.build import page
from recbole_vsid.semantic_id import SemanticIDs

MEASURED = """
const text = arguments[0], start = performance.now();
box.value = text; search();
const searched = performance.now();
const row = matches(text)[0];
const found = performance.now();
reveal(row); showItem(row); tree.getBoundingClientRect();
const loaded = performance.getEntriesByType("navigation")[0].domContentLoadedEventEnd;
return {"load": loaded, "search": searched - start, "open": performance.now() - found, "items": n};
"""


def random_page(n_items):
    rng = np.random.default_rng(0)
    codes = np.full((n_items + 1, 4), -1)
    codes[1:, :3] = rng.integers(0, 256, (n_items, 3))
    codes[1:] = codes[1:][np.lexsort(codes[1:, :3].T[::-1])]
    same = np.r_[False, (codes[2:, :3] == codes[1:-1, :3]).all(1)]
    run = np.maximum.accumulate(np.where(same, 0, np.arange(n_items)))
    codes[1:, 3] = np.arange(n_items) - run
    sizes = [256, 256, 256, int(codes[:, 3].max()) + 1]
    ids = np.array(["[PAD]", *(f"i{item}" for item in range(n_items))])
    table = SemanticIDs(codes, np.r_[0, np.full(n_items, 4)], sizes, False, ids, suffix=True)
    titles = [f"Product number {item} of brand {item % 997}" for item in range(n_items)]
    return page(table, np.r_[0, rng.zipf(1.5, n_items).clip(max=10_000)], titles, "random codes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--n_items", type=int, default=12_101)
    parser.add_argument("--search", default="brand 12")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    from selenium import webdriver

    browser = webdriver.ChromeOptions()
    browser.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1400,1000"):
        browser.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=browser, service=webdriver.ChromeService(shutil.which("chromedriver")))
    with tempfile.TemporaryDirectory() as folder:
        file = options.page
        if file is None:
            file = Path(folder) / "explorer.html"
            file.write_text(random_page(options.n_items), encoding="utf-8")
        rounds = []
        for _ in range(options.rounds):
            driver.get(file.resolve().as_uri())
            rounds.append(driver.execute_script(MEASURED, options.search))
        driver.quit()
        print(f"{rounds[0]['items']:,} items, {file.stat().st_size / 1e6:.1f} MB")
    for name in ("load", "search", "open"):
        print(f"{name}: {median(each[name] for each in rounds):.0f} ms")


if __name__ == "__main__":
    main()
