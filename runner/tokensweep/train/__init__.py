"""Training of one run: rollouts, batches, passes, updates, checkpoints."""
