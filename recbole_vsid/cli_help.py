"""What ``--help`` prints: the verbs and common settings, and for each verb its own; PROGRAM is what the user typed."""

HELP = """\
usage: PROGRAM [train] [--model=NAME] [--dataset=NAME] [--config_files="A.yaml B.yaml"] [--key=value ...]
       PROGRAM VERB [--key=value ...]
       PROGRAM VERB --help

train (the default) trains a recommender, selects it on validation, tests it under one protocol, prints metrics,
protocol and cost, and writes them as JSON. Without arguments: --model=VLSID --dataset=ml-100k, which needs no download.

  leaderboard  trains and tests several models with several seeds, and shows them on one page
  tune         searches hyper-parameters with RecBole's HyperTuning
  recommend    writes the next items of users from the checkpoint of a trained model
  prepare      makes a dataset from your own tables, and checks it
  tokenize     makes semantic IDs without training a recommender, and prints what they look like
  explore      shows a table of semantic IDs as a tree with search, in a browser

  --model=NAME          VLSID, TIGER, ReSID, DIGER, IntRR, IntRRFlat, or one of RecBole (SASRec, GRU4Rec, ...)
  --dataset=NAME        a folder below --data_path with NAME.inter (and NAME.item) in RecBole's atomic format
  --data_path=FOLDER    where dataset folders are; default dataset/
  --config_files="..."  YAML files, separated by blanks or commas; later ones win, the command line wins over all
  --key=value           any setting, the value in YAML: --topk=[5,10] --epochs=30 --enable_amp=false

Often used:
  --tokenizer=NAME      vlsid (variable length), dvae (the same with a fixed length), rkmeans, rvq, rqvae, opq, gaoq
  --content=[A,B]       what the tokenizer sees of an item: auto, or tfidf, cooccurrence, text, fields, famae, file
  --sid_collisions=X    items with the same code: suffix (one more token), nearest, sinkhorn, none
  --sid_file=PATH       a table made elsewhere instead of a tokenizer: .safetensors, .json, .npy, .pt
  --cache_dir=FOLDER    where fitted tokenizers and slow item content are kept; --cache_dir=~ keeps none
  --beam_width=N        beams of the search; at least the largest topk
  --mask_history=true   let the protocol without consumed items select the model (both are always reported)
  --seed=N  --epochs=N  --num_threads=N  --show_progress=false  --result_file=PATH
  --resume=true         continue an interrupted run of the same configuration

All settings with their defaults: properties/overall.yaml, properties/semantic_id.yaml, properties/model/,
properties/tokenizer/, properties/dataset/. RecBole's own: recbole.io/docs/user_guide/config_settings.html

Examples:
  PROGRAM --model=VLSID
  PROGRAM --model=SASRec --dataset=ml-100k
  PROGRAM --model=VLSID --data_path=dataset --dataset=amazon-beauty --tokenizer=rkmeans
  PROGRAM leaderboard --model=VLSID,SASRec,Pop --seed=1,2,3
"""

VERB_HELP = {
    "leaderboard": """\
usage: PROGRAM leaderboard --model=A,B,... [--dataset=A,B,...] [--seed=1,2,...] [--key=value ...]

Trains and tests every model with every seed on every dataset, each run in a process of its own, and writes
results.jsonl, leaderboard.md, leaderboard.csv and leaderboard.html. Runs whose settings and data are in results.jsonl
already are not repeated, and what `train` has finished is taken over; after an interruption the same command goes on.
A failed run is reported and the others go on.

  --output_dir=FOLDER   where these files go; default saved/leaderboard
  --settings_dir=FOLDER A.yaml in it holds the settings of A alone; with `model: B` in it A is a variant of B
  --jobs=N              runs at the same time, which share the processors; default 1
  --report_only=true    run nothing; write the tables of all that results.jsonl has
  --config_files="..."  --key=value   settings of all runs

  PROGRAM leaderboard --model=VLSID,IntRR,SASRec,Pop --seed=1,2,3
""",
    "recommend": """\
usage: PROGRAM recommend --checkpoint=saved/.../best.pth [--users=A,B,...] [--k=10] [--key=value ...]

Writes the next items of users, after all their events, from the checkpoint of a trained model.

  --checkpoint=PATH     best.pth or last.pth of a run, of this package's models or of RecBole's
  --users=A,B,...       ids of users; all users by default
  --users_file=PATH     the same from a file with one id per line
  --k=N                 items per user; 10 by default
  --keep_consumed=true  may recommend items again that a user has already consumed
  --recommendations_file=PATH  where the .csv goes; recommendations.csv beside the checkpoint by default

  PROGRAM recommend --checkpoint=saved/VLSID-ml-100k-.../best.pth --users=196,186
""",
    "prepare": """\
usage: PROGRAM prepare --interactions=FILE [--items=FILE] --dataset=NAME [--key=value ...]

Makes a dataset in RecBole's atomic format from your own tables, checks it, prints what is in it and what to run next.

  --interactions=PATH   one row per event: .csv, .tsv, .jsonl or .parquet; numbers or dates as times. Compressed or
                        not; also a folder of part files, several files (A,B) or a pattern ("part-*.csv")
  --items=PATH          one row per item
  --data_path=FOLDER    where dataset folders are; default dataset/
  --user=COLUMN  --item=COLUMN  --time=COLUMN  --items_id=COLUMN   if their names are not usual ones
  --time=A,B            A orders events, then B, like a day and a time of day; --time=row: the order of the rows
  --time_format=FORMAT  how times are written, like '%d/%m/%Y %H:%M', if not in a usual form
  --where=CONDITION     which events count, like "event == 'purchase' and rating >= 4"
  --item_columns=A,B:T  columns of the items to take, perhaps with a type: token, token_seq, float, or token_seq(;) for
                        names separated by ;   By default all that say what an item is like
  --min_user_events=N  --min_item_events=N   drop users and items with fewer events until none is left (k-core)
  --separator=X         between the columns of a text file, if not the usual one of its extension: ";", "::", tab, ...
  --columns=A,B,...  --items_columns=A,B,...   names of the columns of text files without a header
  --encoding=NAME       of text files that are not UTF-8: latin-1, cp1252, ...
  --overwrite=true      replace the files of an existing dataset

  PROGRAM prepare --interactions=events.csv --items=products.csv --dataset=my-shop
""",
    "tune": """\
usage: PROGRAM tune [--model=NAME] [--dataset=NAME] [--params_file=FILE] [--key=value ...]

Searches the settings of a model that are best on validation, with RecBole's HyperTuning.

  --params_file=PATH    the space in RecBole's format, like `learning_rate choice [0.001, 0.004]`;
                        default properties/hyper/<model>.test
  --algo=NAME           exhaustive (the default; every combination of choices), random or bayes
  --max_evals=N         trials of random and bayes; default 20
  --early_stop=N        they end after so many trials without progress; default 10
  --output_file=PATH    CSV of all trials, written after each; default saved/tune/<model>-<dataset>.csv
  --key=value           settings of all trials

  PROGRAM tune --model=IntRR --epochs=8
""",
    "explore": """\
usage: PROGRAM explore [--tokenizer=NAME | --sid_file=PATH] [--dataset=NAME] [--key=value ...]
       PROGRAM explore --checkpoint=saved/.../best.pth

Writes one HTML page with the tree of codes, titles, popularity, codebook use and a search box. It needs no network.

  --checkpoint=PATH     best.pth or last.pth of a run: the table of its model
  --title_column=NAME   item column that is shown; by default one that is called like a title
  --explorer_file=PATH  where the page goes; by default beside the checkpoint, or in saved/semantic_ids

  PROGRAM explore --tokenizer=rkmeans
""",
    "tokenize": """\
usage: PROGRAM tokenize [--tokenizer=NAME | --compare=A,B,...] [--dataset=NAME] [--key=value ...]

Makes semantic IDs without training a recommender, prints what they look like and writes the table.

  --table_file=PATH     where the table goes; .safetensors (default), .json, .npy or .pt
  --table_format=NAME   codes or tokens (<a_12>) in a .json, or index (LETTER, MiniOneRec); codes by default
  --compare=A,B,...     several tokenizers, each in its own process, side by side

  PROGRAM tokenize --compare=rkmeans,rqvae,vlsid,gaoq
""",
}
