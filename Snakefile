# The pipeline: one rule a notebook, each a papermill run. ./run_all.sh calls this; by hand it is
#     snakemake --cores all --config params=params/tiny.yaml
# A notebook runs again when one of these changed: a file that it reads, its own cells, a module of csp_utils that it
# uses, one of its parameters. What every notebook reads and makes is said in csp_utils (notebook.needs, artifacts.MAKES).
import json
import sys

sys.path.insert(0, workflow.basedir)
from csp_utils.pipeline import graph as steps

PARAMS_FILE = config.get("params", "params/tiny.yaml")
STEPS = steps.steps(PARAMS_FILE)
CORES = workflow._cores or 1  # without --cores, as on a cluster, workflow.cores would be an error


rule all:
    input:
        [step.copy for step in STEPS],


for position, step in enumerate(STEPS):

    if step.parts:  # scattered: its rows are computed in parts, beside one another

        rule:
            name:
                f"{step.rule}_part"
            input:
                files=step.inputs,
                code=step.code,
            output:
                temp(directory(step.any_part)),
            wildcard_constraints:
                part=r"\d+",
            params:
                name=step.name,
                values=json.dumps(step.parameters, sort_keys=True),
            threads: steps.threads(STEPS, CORES, step)
            resources:
                gpu=steps.gpu(step),
            priority: len(STEPS) - position
            shell:
                "python -m csp_utils.pipeline.run_shard {params.name} {params.values:q} {wildcards.part} {resources.gpu}"

    rule:
        name:
            step.rule
        input:
            files=step.inputs,
            code=step.code,
            parts=step.parts,  # gathered: the notebook puts them together
        output:
            [directory(path) if path in step.folders else path for path in step.outputs],
            step.copy,
        params:
            folder=step.run_folder,
            values=json.dumps(step.parameters, sort_keys=True),
        threads: steps.threads(STEPS, CORES, step)
        resources:
            gpu=steps.gpu(step),
        priority: len(STEPS) - position  # of notebooks that could run, the first: a reader follows their numbers
        shell:
            "python -m csp_utils.pipeline.run_notebook {input.code[0]:q} {params.folder:q} {params.values:q} {resources.gpu}"
