"""The command line: what it reads, what it hands on, and how it refuses."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys

import pytest

import recbole_vsid
import recbole_vsid.quick_start
from recbole_vsid.cli import VERBS, main, parse
from recbole_vsid.console import program_name
from recbole_vsid.leaderboard.plan import as_argument
from recbole_vsid.trainer import GenerativeTrainer


@pytest.fixture
def runs(monkeypatch):
    """The calls of ``run`` that the command line makes; nothing is trained."""
    calls = []
    monkeypatch.setattr(recbole_vsid.quick_start, "run", lambda *arguments: calls.append(arguments))
    return calls


def refused(capsys, *arguments):
    """Run with bad input; return the error line after checking that it is one, without a traceback."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == "" and len(lines) == 2, captured.err
    assert lines[0].startswith("error: ") and "--help" in lines[1]
    assert "Traceback" not in captured.err
    return lines[0]


def test_both_forms_are_read():
    assert parse(["--epochs=3", "--learning_rate", "1e-3", "--topk", "[5, 10]"]) == {
        "epochs": 3, "learning_rate": 0.001, "topk": [5, 10],
    }  # fmt: skip
    assert parse(["--seed", "-1", "--enable_amp=false", "--content_file=a=b.npy", "--threshold={rating: 3}"]) == {
        "seed": -1, "enable_amp": False, "content_file": "a=b.npy", "threshold": {"rating": 3},
    }  # fmt: skip
    assert parse([]) == {}


def test_names_and_paths_stay_text():
    arguments = ["--dataset=2020", "--data_path=1e3", "--result_file=~/a", "--model=true", "--checkpoint_dir", "[x"]
    assert parse(arguments) == {
        "dataset": "2020", "data_path": "1e3", "result_file": "~/a", "model": "true", "checkpoint_dir": "[x",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", [",", "|", ">", "-", " ", "#", "~", "::", "@", "%", "&", "\t", ";", "^", "/", "null", "true", "1", "[", "'"]
)
@pytest.mark.parametrize("key", ["field_separator", "seq_separator"])
def test_a_separator_is_a_text(key, text):
    assert parse([f"--{key}={text}"]) == parse([f"--{key}", text]) == {key: text}
    assert parse([f"--{key}={as_argument(text)}"]) == {key: text}
    assert parse([f"--{key}='{text}'"]) == {key: text}


def test_texts_are_texts_and_empty_is_empty():
    assert parse(["--model=DMF", "--inter_matrix_type=01"])["inter_matrix_type"] == "01"
    assert parse(["--model=BERT4Rec", "--layer_norm_eps=1e-12"])["layer_norm_eps"] == 1e-12
    assert parse(["--encoding=~", "--USER_ID_FIELD=2020", "--wandb_project=no", "--cache_dir=~"]) == {
        "encoding": None, "USER_ID_FIELD": "2020", "wandb_project": "no", "cache_dir": None,
    }  # fmt: skip
    for value in ("a", "1", "~", "null", "[1]", "", "'a'", ",", None):
        assert parse([f"--encoding={as_argument(value)}"]) == {"encoding": value}


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("-m", "write --model=NAME"), ("-d=toy", "write --dataset=NAME"), ("--device=cpu", "use_gpu=false"),
        ("--nproc=2", "a run is one process"), ("--lr=1", "'learning_rate'"), ("--k=3", "'topk'"), ("--zzzzz=1", "all"),
        ("--model=BPR --sid_file=x", "only other models"), ("recomend", "Did you mean 'recommend'?"),
    ],
)  # fmt: skip
def test_advice_is_near_or_not_given(capsys, argument, told):
    line = refused(capsys, *argument.split())
    assert told in line and (argument != "--zzzzz=1" or "nearest" not in line)


def test_values_are_not_evaluated(tmp_path):
    evil = "__import__('os').system('touch pwned')"
    assert parse([f"--learner={evil}", "--wandb_project=1/0"]) == {"learner": evil, "wandb_project": "1/0"}
    assert not (tmp_path / "pwned").exists()


def test_twice_the_same_is_fine_and_two_values_are_not():
    assert parse(["--epochs=3", "--epochs", "3"]) == {"epochs": 3}
    with pytest.raises(ValueError, match="--epochs is given twice: 3 and 4"):
        parse(["--epochs=3", "--epochs=4"])


@pytest.mark.parametrize("arguments", [["--epochs"], ["--epochs", "--seed=3"], ["--seed=3", "--epochs"]])
def test_a_missing_value(arguments):
    with pytest.raises(ValueError, match="--epochs has no value; write --epochs=value"):
        parse(arguments)


@pytest.mark.parametrize("argument", ["epochs=3", "-epochs=3", "--", "garbage", "-x"])
def test_arguments_that_are_none(argument):
    with pytest.raises(ValueError, match="cannot read the argument"):
        parse([argument])


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--model=SASRec", "--help"]])
def test_help(capsys, runs, arguments):
    assert main(arguments) == 0 and not runs
    out = capsys.readouterr().out
    assert out.startswith("usage: python run_recbole_vsid.py")
    for word in ("--model", "--dataset", "--tokenizer", "--config_files", "VLSID", "rkmeans"):
        assert word in out


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "train"])
def test_every_verb_has_its_help(capsys, verb):
    assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: python run_recbole_vsid.py {verb} ")
    assert main(["--help"]) == 0
    assert f"\n  {verb} " in capsys.readouterr().out


def test_help_is_a_verb_too(capsys):
    assert main(["help"]) == 0 and "Often used" in capsys.readouterr().out
    assert main(["help", "tune"]) == 0 and "--params_file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "arguments", "name"),
    [
        (["/bin/python3", "/bin/recbole-vsid", "--x=1"], ["/bin/recbole-vsid", "--x=1"], "recbole-vsid"),
        (["py", "a b/run_recbole_vsid.py"], ["a b/run_recbole_vsid.py"], "py 'a b/run_recbole_vsid.py'"),
        (["python3", "-m", "recbole_vsid"], ["/x/recbole_vsid/__main__.py"], "python3 -m recbole_vsid"),
        (["python", "-c", "..."], ["-c"], "python run_recbole_vsid.py"),
        ([], [], "python run_recbole_vsid.py"),
    ],
)
def test_the_program_is_called_as_the_user_called_it(capsys, monkeypatch, typed, arguments, name):
    monkeypatch.setattr(sys, "orig_argv", typed, raising=False)
    monkeypatch.setattr(sys, "argv", arguments)
    assert program_name() == name
    assert main(["tune", "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: {name} tune ")


def test_a_reader_that_has_enough(monkeypatch):
    class Closed(io.TextIOBase):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    assert main(["--help"]) == 0


def test_version(capsys, runs):
    assert main(["--version"]) == 0 and not runs
    assert capsys.readouterr().out == f"recbole_vsid {recbole_vsid.__version__}\n"


def test_help_and_version_do_not_wait_for_pytorch():
    code = "import sys; from recbole_vsid.cli import main; main(['--help']); main(['--version']); "
    code += "print('torch' in sys.modules)"
    path = recbole_vsid.__path__[0].rsplit("recbole_vsid", 1)[0]
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=path)
    assert output.stdout.splitlines()[-1] == "False"


def test_defaults(runs):
    assert main([]) == 0
    assert runs == [("VLSID", "ml-100k", [], {"model": "VLSID", "dataset": "ml-100k"})]


def test_settings_and_files_are_handed_on(runs, tmp_path):
    (tmp_path / "a.yaml").write_text("epochs: 2\n")
    (tmp_path / "b.yaml").write_text("topk: [10]\n")
    assert main(["--model=SASRec", "--config_files=a.yaml  b.yaml", "--epochs=3"]) == 0
    assert runs == [("SASRec", "ml-100k", ["a.yaml", "b.yaml"], {"model": "SASRec", "dataset": "ml-100k", "epochs": 3})]


def test_files_may_name_model_and_dataset(runs, tmp_path):
    (tmp_path / "a.yaml").write_text("model: Pop\ndataset: toy\n")
    assert main(["--config_files=a.yaml"]) == 0 and main(["--config_files=a.yaml", "--dataset=mine"]) == 0
    assert [run[:2] for run in runs] == [("Pop", "toy"), ("Pop", "mine")]


def test_without_arguments_sys_argv_is_read(runs, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run_recbole_vsid.py", "--model=BPR"])
    assert main() == 0 and runs[0][0] == "BPR"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["garbage"], "unknown verb 'garbage'; known: train, tokenize"),
        (["--epochs"], "--epochs has no value"),
        (["--epochs=-1"], "epochs=-1 is not usable"),
        (["--topk=0"], "topk"),
        (["--topk=many"], "topk='many' is not usable"),
        (["--topk="], "topk=None is not usable"),
        (["--topk=[5"], "'[5' is not a YAML value"),
        (["--metrics=[Recall,RMSE]"], "metrics=['Recall', 'RMSE'] are not usable"),
        (["--metrics=Foo"], "no metric named 'Foo'"),
        (["--valid_metric=Hit@10"], "valid_metric='Hit@10' is not usable"),
        (["--epoch=3"], "unknown setting 'epoch'"),
        (["--=3"], "unknown setting ''"),
        (["--model=sasrec"], "Did you mean 'SASRec'?"),
        (["--model="], "name a model and a dataset"),
        (["--model=FM"], "of type CONTEXT"),
        (["--tokenizer=kmeans"], "Did you mean 'rkmeans'?"),
        (["--dataset=../x"], "dataset='../x' is not a usable name"),
        (["--dataset=nothing"], "unknown dataset 'nothing'"),
        (["--config_files=missing.yaml"], "no file 'missing.yaml'"),
        (["--resume=true"], "this configuration has not been run here"),
        (["--model=SASRec", "--resume=true"], "resume=True works for this package's models only"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, told):
    assert told in refused(capsys, *arguments)


def test_what_only_the_data_can_tell(capsys, data_path):
    common = ["--dataset=toy", f"--data_path={data_path}", "--tokenizer=rkmeans", "--sid_vocab_size=8", "--state=error"]
    for bad, told in (
        ("--topk=[5, 10, 42]", "topk=42 is larger than the catalogue: toy has 41 items"),
        ("--sid_max_length=3", "unknown setting 'sid_max_length'"),
        ("--content=[tfidf, file]", "content=file needs content_file=<path>"),
        ("--content_weights=[1]", "content_weights=[1] must be one positive number for each"),
    ):
        assert told in refused(capsys, *common, bad)
    assert main([*common, "--beam_width=5"]) == 2  # known after the semantic IDs, which are shown
    assert "beam_width=5 is below the largest cut-off" in capsys.readouterr().err


def test_a_library_that_is_missing(capsys, runs, monkeypatch):
    def run(*arguments):
        raise ModuleNotFoundError("No module named 'xgboost'")

    monkeypatch.setattr(recbole_vsid.quick_start, "run", run)
    assert "xgboost" in refused(capsys, "--model=XGBoost")


def test_a_folder_that_cannot_be_written(capsys, monkeypatch):
    def run(*arguments):
        raise PermissionError(13, "Permission denied", "/saved")

    monkeypatch.setattr(recbole_vsid.quick_start, "run", run)
    assert "Permission denied: '/saved'" in refused(capsys)


def test_debug_shows_where(runs, monkeypatch):
    def run(*arguments):
        raise ValueError("bad")

    monkeypatch.setattr(recbole_vsid.quick_start, "run", run)
    with pytest.raises(ValueError, match="bad"):
        main(["--state=debug"])


def test_our_own_mistakes_are_told_as_such(monkeypatch, capsys):
    def run(*arguments):
        raise TypeError("a bug")

    monkeypatch.setattr(recbole_vsid.quick_start, "run", run)
    assert main([]) == 1
    error, advice = capsys.readouterr().err.splitlines()
    assert error == "error: TypeError: a bug" and "a fault of recbole_vsid" in advice and "--state=debug" in advice
    for debug in (["--state=debug"], ["--state", "DEBUG"]):
        with pytest.raises(TypeError, match="a bug"):
            main(debug)


def small_run(small_settings, **changes):
    return [f"--{key}={as_argument(value)}" for key, value in small_settings(**changes).items()]


def test_the_command_that_is_printed_next_works(small_settings, capsys):
    assert main(["--dataset=toy", *small_run(small_settings, epochs=1, checkpoint_dir="my models")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Next: ")]
    assert line.startswith("Next: python run_recbole_vsid.py recommend '--checkpoint=my models/VLSID-toy-")
    checkpoint = line.partition("'")[2][:-1]
    assert main(["recommend", checkpoint, "--users=u1"]) == 0
    capsys.readouterr()
    own = [f"--{key}={as_argument(value)}" for key, value in small_settings("ItemKNN", epochs=1).items()]
    assert main(["--dataset=toy", "--model=ItemKNN", *own]) == 0
    assert "Next: " not in capsys.readouterr().out  # no safe file holds what this model learns


def test_after_an_interruption_the_command_to_go_on_is_told(small_settings, capsys, monkeypatch, tmp_path):
    (tmp_path / "my own.yaml").write_text("epochs: 3\n")
    arguments = ["--dataset=toy", "--config_files=my own.yaml", *small_run(small_settings)]
    arguments = [argument for argument in arguments if not argument.startswith("--epochs")]
    whole = GenerativeTrainer.save_last

    def before(trainer, epoch):
        raise KeyboardInterrupt

    def after(trainer, epoch):
        whole(trainer, epoch)
        raise KeyboardInterrupt

    monkeypatch.setattr(GenerativeTrainer, "save_last", before)
    assert main(arguments) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"  # there is nothing to go on from
    monkeypatch.setattr(GenerativeTrainer, "save_last", after)
    assert main(arguments) == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("interrupted; go on with: python run_recbole_vsid.py ")
    monkeypatch.setattr(GenerativeTrainer, "save_last", whole)
    resume, resumed = GenerativeTrainer.resume_checkpoint, []
    monkeypatch.setattr(
        GenerativeTrainer, "resume_checkpoint", lambda *given: (resume(*given), resumed.append(given[0].start_epoch))
    )
    assert main(shlex.split(line)[6:]) == 0  # what follows the program
    assert resumed == [1]
