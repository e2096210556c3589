"""What a stage is, and what its results are made from."""
