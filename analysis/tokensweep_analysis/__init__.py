"""Turns run folders into tables: samples, pass@k, contrasts, reports."""
