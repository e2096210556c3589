"""What is read from ms-swift's logs, and shown of them: no line of them ends a training."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp_utils.base.files import write_jsonl
from csp_utils.training.log import last_error, read_logging, sparse


def test_only_some_of_the_log_is_shown():
    show = sparse(lines=4)
    entry = {"loss": 1.0, "learning_rate": 1e-5, "elapsed_time": "1s", "remaining_time": "2s"}
    said = [show(str(entry | {"global_step/max_steps": f"{i}/100"})) for i in range(1, 101)]
    assert [i for i, line in enumerate(said, 1) if line] == [1, 25, 50, 75, 100]
    assert show("[INFO:swift] args: SftArguments(") is None
    assert "OSError: gone" in show("OSError: gone")


def test_the_cause_is_that_of_a_process_and_not_torchruns():
    log = "[rank1]: Traceback\n[rank1]: ValueError: no such row\nW1 end\ntorch.distributed.ChildFailedError: \n==\n"
    assert last_error(log) == "ValueError: no such row"
    assert last_error("a\nKeyError: 'x'\nb") == "KeyError: 'x'" and last_error("a\n") is None


def test_logging_jsonl_of_a_resumed_training_keeps_the_later_step(tmp_path):
    steps = [(1, 5.0), (2, 4.0), (3, 3.0), (2, 3.9), (3, 2.9)]
    lines = [{"loss": loss, "global_step/max_steps": f"{step}/3", "train_speed(s/it)": 0.5, "elapsed_time": "1s"}
             for step, loss in steps] + [{"train_runtime": 9.0}]  # fmt: skip
    write_jsonl(lines, tmp_path / "logging.jsonl")
    table, summary = read_logging(tmp_path / "logging.jsonl")
    assert [(row["step"], row["loss"]) for row in table] == [(1, 5.0), (2, 3.9), (3, 2.9)]
    assert summary == {"seconds": 9.0, "steps": 3, "seconds_per_step": 0.5}


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf", "1e999", "'high'", "None"])
def test_a_loss_that_is_no_number_does_not_end_a_training(loss):
    """Was: literal_eval's ValueError on ``nan`` ended the training in its middle."""
    line = (f"{{'loss': {loss}, 'grad_norm': nan, 'learning_rate': 1e-05, 'global_step/max_steps': '1/9', "
            "'elapsed_time': '1s', 'remaining_time': '2s'}")  # fmt: skip
    assert "loss" in sparse()(line)


@given(st.one_of(st.text(), st.text().map(lambda text: "{'loss'" + text), st.text().map(lambda t: f"{{{t}'loss'}}")))
def test_no_line_ends_a_training(line):
    shown = sparse()(line)
    assert shown is None or isinstance(shown, str)


@pytest.mark.parametrize("line", [
    "{'loss': 1, 'global_step/max_steps': 5}", "{'loss'}", "{'loss': 1}", "{" * 5000 + "'loss'",
    "{'loss': 1.0, 'global_step/max_steps': '0/0'}",
])  # fmt: skip
def test_not_even_a_strange_one(line):
    sparse()(line)
