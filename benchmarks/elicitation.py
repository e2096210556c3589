"""How much faster the shared engine asks than plain generation, as ratios of one run on one machine.

    OMP_NUM_THREADS=1 python benchmarks/elicitation.py [--model DIR_OR_ID] [--images N] [--rounds N] [--batch-size N]

Three prompts a question (prompt A.2 about Yes and about No, and the question itself), greedy, all questions of the drawn
benchmarks about N images. Compared are transformers' ``generate``, one prompt at a time, and ms-swift's TransformersEngine,
which batches. The ways take turns, and a ratio is of medians over the rounds: of seconds by the clock and of seconds of
CPU, because others may use the machine, too. The replies of the three are compared as well.
"""  # noqa: E501

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from csp_utils.asking.elicitation import KINDS, prompt_of, read_questions, unique_questions
from csp_utils.base.devices import pick_device
from csp_utils.data.images import load_image
from csp_utils.models.vlm.load import VLM, ModelChoice, load_vlm
from csp_utils.models.vlm.reply import Asking, Prompt
from csp_utils.notebook import OFFLINE

MAX_NEW_TOKENS = 8


def drawn_prompts(folder: Path, n_images: int) -> list[Prompt]:
    """Three prompts for each different question of POPE's and AMBER's kind about ``n_images`` drawn scenes."""
    from csp_utils.base.run import RunPaths
    from csp_utils.tiny_world.world.data import write_world

    paths = RunPaths("benchmark", folder)
    write_world(paths, 1, 1, n_images, seed=0)
    questions = unique_questions(read_questions(paths["data/pope"], paths["data/amber"], None))
    return [Prompt(Path(q.path), prompt_of(q.question, kind)) for q in questions.itertuples() for kind in KINDS]


def swift_engine(vlm: VLM, batch_size: int) -> Callable[[list[Prompt]], list[str]]:
    """ms-swift's own engine on the same model and template."""
    from swift.infer_engine import InferRequest, RequestConfig, TransformersEngine

    class Engine(TransformersEngine):
        def _infer_full(self, inputs: dict, **kwargs: Any) -> list:
            # With these positions of its own, generate of transformers 4.57 fails at the second token of a Qwen2-VL.
            inputs.pop("position_ids", None)
            return super()._infer_full(inputs, **kwargs)

    engine = Engine(vlm.model, template=vlm.template, max_batch_size=batch_size)
    config = RequestConfig(max_tokens=MAX_NEW_TOKENS, temperature=0)

    def ask(prompts: list[Prompt]) -> list[str]:
        requests = [InferRequest(messages=[{"role": "user", "content": f"<image>{p.text}"}],
                                 images=[load_image(p.image)]) for p in prompts]
        return [r.choices[0].message.content for r in engine.infer(requests, config, use_tqdm=False)]

    return ask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="assets/tiny_world/vlm")
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--torch-dtype", default="float32")
    options = parser.parse_args()
    logging.getLogger("swift").setLevel(logging.ERROR)
    choice = ModelChoice(options.model, "qwen2_vl", "qwen2_vl", 12544, options.torch_dtype, pick_device("auto"))
    vlm = load_vlm(choice, "shared")
    with tempfile.TemporaryDirectory() as folder:
        prompts = drawn_prompts(Path(folder), options.images)
        engine = swift_engine(vlm, options.batch_size)
        ways: dict[str, Callable[[list[Prompt]], list[str]]] = {
            "shared": lambda p: [r.text for r in vlm.ask(p, Asking(options.batch_size, MAX_NEW_TOKENS))],
            "generate, one by one": lambda p: [r.text for r in vlm.ask(p, Asking(1, MAX_NEW_TOKENS), engine="plain")],
            "ms-swift, batched": engine,
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        said = {name: ask(prompts[:6]) for name, ask in ways.items()}  # warm
        for _ in range(options.rounds):
            for name, ask in ways.items():
                clock, cpu = time.perf_counter(), time.process_time()
                said[name] = ask(prompts)
                seconds[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    print(f"{len(prompts) // 3} questions about {options.images} images, {options.rounds} rounds, batches of "
          f"{options.batch_size}, {vlm.model.device}, {options.torch_dtype}")
    own = [statistics.median(column) for column in zip(*seconds["shared"], strict=True)]
    for name, times in seconds.items():
        clock, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        differ = sum(a != b for a, b in zip(said["shared"], said[name], strict=True))
        print(f"{name:22s} {1000 * clock / len(prompts):7.1f} ms a prompt   {clock / own[0]:5.1f} x by the clock   "
              f"{cpu / own[1]:5.1f} x CPU   {differ} replies differ")


if __name__ == "__main__":
    import os

    os.environ |= OFFLINE
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    main()
