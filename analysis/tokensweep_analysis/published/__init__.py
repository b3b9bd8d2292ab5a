"""Audits tables of published results: what they get wrong, and what their differences can support."""
