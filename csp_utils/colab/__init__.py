"""What a notebook needs before it can run that is opened by hand, in JupyterLab or in Google Colab."""

DEFAULT = "params/tiny.yaml"
"""The params file of a notebook that names none."""

DEMO = "params/demo.yaml"
"""The params file of a notebook for which the named file has no section: every notebook with its own defaults."""
