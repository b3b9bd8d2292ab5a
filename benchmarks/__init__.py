"""Benchmarks of tokensweep against the alternatives, measured in one run on one machine.

``python -m benchmarks`` runs them; ``python -m benchmarks --help`` says how.
"""
