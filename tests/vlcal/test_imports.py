"""What loads without torch stays so: the pipeline and the reward functions import it."""

import subprocess
import sys

from conftest import ROOT

LIGHT = "choices formats perturbation prompts reply rewards spans items.answers items.matching items.table".split()


def test_only_the_functions_of_tensors_load_torch_and_only_the_worker_sympy():
    code = "".join(f"import csp_utils.vlcal.{name}\n" for name in LIGHT)
    code += "import sys; print(sorted({'torch', 'transformers', 'sympy', 'math_verify'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "[]"
