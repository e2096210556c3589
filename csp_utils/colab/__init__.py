"""What Google Colab needs before a notebook can run there."""

DEFAULT = "params/demo.yaml"
"""The params file of a notebook that names none."""
