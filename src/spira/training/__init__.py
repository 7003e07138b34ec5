"""Experiments, the stages of the pipeline, and the training loop."""
