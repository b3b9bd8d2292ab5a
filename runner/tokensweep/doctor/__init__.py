"""``tokensweep doctor``: is everything here that runs need, and if not, what to do."""
