"""Exactly once, by chaos: runs with faults by chance, each until it is done, looked at from outside after every attempt.

``scenario.py`` draws what happens from a seed, ``rows.py`` writes its inputs and computes what must come out, ``launch.py`` forks the
runs, ``faults.py`` breaks them at their N-th operation, ``look.py`` says what stands in an output, ``play.py`` plays a scenario to its
end, and ``summary.py`` adds up the log.
"""
