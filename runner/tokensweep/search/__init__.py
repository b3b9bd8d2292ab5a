"""Search: Optuna asks which values to try next, runs answer, and no process has to live for the whole of it.

A search is a sweep whose arms are made while it works. ``<store>/sweeps/<name>/search/`` holds

- ``search.json``: what was planned (:class:`~tokensweep.search.spec.Search`), and a hash of the config that
  every trial starts from;
- ``journal.log``: the Optuna study, unless a database was named; the truth about trials;
- ``trials.json``: a copy of the study in plain JSON for whoever reads reports, written again by each report;
- ``elements/0003.lock``: held by the process that works as element 3.

A trial is an arm called ``trial-007`` in ``sweep.json``, with one run per seed; the runs lie in the store
like all others, under the identity of their own configs.

``trials.json`` is ``{"name", "sampler", "pruner", "objectives": [{"name", "direction"}], "planned": 24,
"space": [a parameter each], "trials": [...]}`` with a row per trial: ``number``, ``arm``, ``state``
(complete, pruned, failed, running, waiting), ``params`` {KEY: VALUE}, ``values`` [one per objective] or null,
``intermediate`` {STEP: accuracy of training}, ``pruned_step`` or null, ``runs`` {SEED: run id}, ``reason`` of
a failure, ``counted`` (false for a repetition and for what was tried again under another number), ``started``
and ``ended`` in seconds since the epoch or null.
"""
