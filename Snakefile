# The pipeline: one rule a notebook, each a papermill run. ./run_all.sh calls this; by hand it is
#     snakemake --cores all --config params=params/tiny.yaml
# The output of a rule is the executed notebook, and its inputs are executed notebooks. Results are neither: Snakemake
# deletes the outputs of a job that fails, and of one that it starts again. Each stage keeps its own results, with a
# record of what they were made from (csp_utils/results/produce.py), and computes only what is not there.
import sys

sys.path.insert(0, workflow.basedir)
from csp_utils.pipeline import graph

PLAN, STEPS = graph.for_snakemake(config)
CORES = workflow._cores or 1  # without --cores, as on a cluster, workflow.cores would be an error


rule all:
    input:
        [step.copy for step in STEPS],


for position, step in enumerate(STEPS):

    if step.shards > 1:  # scattered: its rows are computed in shards, beside one another

        rule:
            name:
                f"{step.rule}_shard"
            input:
                after=step.after,
            output:
                temp(touch(step.any_shard_mark)),
            wildcard_constraints:
                shard=r"\d+",
            params:
                plan=PLAN,
                rule=step.rule,
                fingerprint=step.fingerprint,
            threads: graph.threads(STEPS, CORES, step)
            resources:
                gpu=graph.gpu(step),
            priority: len(STEPS) - position
            shell:
                "python -m csp_utils.pipeline.run_shard {params.plan:q} {params.rule} {wildcards.shard} {resources.gpu}"

    rule:
        name:
            step.rule
        input:
            after=step.after,
            shards=step.shard_marks,  # gathered: the notebook puts them together
        output:
            step.copy,
        params:
            plan=PLAN,
            rule=step.rule,
            fingerprint=step.fingerprint,
        threads: graph.threads(STEPS, CORES, step)
        resources:
            gpu=graph.gpu(step),
        priority: len(STEPS) - position  # of notebooks that could run, the first: a reader follows their numbers
        shell:
            "python -m csp_utils.pipeline.run_notebook {params.plan:q} {params.rule} {resources.gpu}"
