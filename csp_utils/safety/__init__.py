"""Safety calibration: does a model decline the unsafe member of a look-alike pair and answer the safe one?

The sets, the measure SRA and the four verdicts are those of VSCBench (arXiv 2505.20362). Texts and pictures of a set
that this project did not make are never shown, logged or published: :mod:`csp_utils.safety.guard`.
"""
