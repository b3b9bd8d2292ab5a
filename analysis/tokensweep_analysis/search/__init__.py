"""What a search found, for its report: ranking, shrunk maximum, importance of parameters, plots.

A sweep is a search when its folder has ``search/trials.json``, a plain copy of the Optuna study; see
:mod:`tokensweep.search` for what that holds.
"""
