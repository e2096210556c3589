"""Replies that exist already: read them from files of any evaluation, and measure them without a model."""
