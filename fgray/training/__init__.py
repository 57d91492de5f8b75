"""Contrastive training: data in a fixed order, steps over any number of workers, checkpoints that any number of workers resume."""
