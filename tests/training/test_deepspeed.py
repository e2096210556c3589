"""DeepSpeed: the command line; where the package is installed, ZeRO against one process without it (slow).

`scripts/try_deepspeed.sh` makes an environment with it and runs this module. There ZeRO works among two processes
without a GPU; GPUs, NCCL and models that need them are not tested.
"""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
from stage_tools import run_stage
from test_training import VLM, at_the_root, options, write_rows  # noqa: F401  (at_the_root is used by itself)

from csp_utils.base.errors import UserError
from csp_utils.base.run import RunPaths
from csp_utils.stages.sft import Sft
from csp_utils.stages.simpo import Simpo
from csp_utils.training import command as training

HERE = importlib.util.find_spec("deepspeed") is not None


def pretend(monkeypatch: pytest.MonkeyPatch, installed: bool, device: str) -> None:
    """Whether DeepSpeed is installed, and what device there is."""
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: name if installed else None)
    monkeypatch.setattr(training, "pick_device", lambda device_asked: device)


def test_it_goes_to_ms_swift_by_torchrun_even_for_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, True, "cuda")
    bf16 = {"torch_dtype": "bfloat16"}
    for p, method in ((Sft(deepspeed="zero2", **bf16), "sft"), (Simpo(deepspeed="zero3", processes=4, **bf16), "rlhf")):
        words = training.command(p, VLM, "d", "o")
        assert words[1:4] == ["-m", "swift.cli.main", method] and options(words)["--deepspeed"] == p.deepspeed
        assert training.environment(p, VLM, tmp_path)["NPROC_PER_NODE"] == str(p.processes)
        assert not {"--use_cpu", "--fp16"} & set(words) and not any("deepspeed_cpu" in word for word in words)
    assert "--deepspeed" not in training.command(Sft(), VLM, "d", "o")


def test_without_a_gpu_it_is_started_over_gloo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, True, "cpu")
    p = Sft(deepspeed="zero2", processes=2)
    words = training.command(p, VLM, "d", "o")
    assert options(words)["--use_cpu"] == "true" and options(words)["--fp16"] == "false"
    assert any(word.endswith("swift_plugins/deepspeed_cpu.py") for word in words)
    assert training.environment(p, VLM, tmp_path)["DS_ACCELERATOR"] == "cpu"


def test_where_it_is_missing_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, False, "cuda")
    with pytest.raises(UserError, match=r"^deepspeed is 'zero3', and the package is not installed.*==0\.18\.9"):
        training.command(Simpo(deepspeed="zero3"), VLM, "d", "o")


def trained(kind: type, tmp_path: Path, deepspeed: str | None, processes: int) -> tuple[list[float], Path]:
    """Losses and checkpoint of four updates of SFT, or two of SimPO, of 16 rows each."""
    paths = RunPaths(f"{deepspeed}-{processes}", tmp_path)
    write_rows(paths, 72)
    p = kind(model=VLM, n_rows=64 if kind is Sft else 32, batch_size=2, learning_rate=1e-3, device="cpu",
             gradient_accumulation_steps=8 // processes, processes=processes, deepspeed=deepspeed)  # fmt: skip
    run_stage(p, paths)
    table = pd.read_parquet(paths["sft/log.parquet"] if kind is Sft else paths["simpo/log.parquet"])
    return table["loss"].tolist(), paths["sft/checkpoint"] if kind is Sft else paths["simpo/checkpoint"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[type, tuple[list[float], Path]]:
    """Both trainings by one process without DeepSpeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).resolve().parents[2])
        return {kind: trained(kind, tmp_path_factory.mktemp(kind.__name__), None, 1) for kind in (Sft, Simpo)}


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="needs deepspeed: scripts/try_deepspeed.sh")
@pytest.mark.parametrize("kind", [Sft, Simpo])
@pytest.mark.parametrize("deepspeed, processes", [("zero2", 1), ("zero2", 2), ("zero3", 2)])
def test_zero_trains_as_one_process_does(kind: type, deepspeed: str, processes: int, alone: dict, tmp_path: Path
                                         ) -> None:
    """The same losses; the checkpoint is whole, loads, and its weights are those of one process but for rounding."""
    from safetensors.torch import load_file
    from transformers import Qwen2VLForConditionalGeneration

    losses, checkpoint = trained(kind, tmp_path, deepspeed, processes)
    wanted, reference = alone[kind]
    assert losses == pytest.approx(wanted, rel=1e-5)
    start, one, other = (load_file(Path(folder) / "model.safetensors") for folder in (VLM, reference, checkpoint))
    assert one.keys() == other.keys() == start.keys()
    moved = max((one[name] - start[name].float()).abs().max() for name in one)
    assert max((one[name] - other[name]).abs().max() for name in one) < 0.05 * moved
    frozen = [name for name in one if name.startswith("visual")]
    assert frozen and all((other[name] == start[name].float()).all() for name in frozen)
    _, loading = Qwen2VLForConditionalGeneration.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(loading.values())  # no key is missing or too many
