"""Sweeps on a SLURM cluster: sites, submission, what a job does on its node, and what became of it."""
