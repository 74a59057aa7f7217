"""Runs whose file operations fail, and what must be true of them all the same.

    inject.c       a library to preload: lists a process's file operations, makes chosen ones fail
    plan.py        what fails when, in a line of text
    workloads.py   the runs that are disturbed, and the folders that they begin with
    server.py      a process that has imported torch once and forks for each run
    check.py       the invariant
    bench.py       carries a case out
    campaign.py    random cases, their table
    __main__.py    python -m tests.faults

The invariant, after every disturbed start: each complete checkpoint is still there, byte for byte,
unless ``checkpoint.keep`` would drop it; the log still has its lines up to the newest of them; the
run ended with success, or in one line with an exit code of engine.errors.ExitCode. A start without
faults then ends with the weights, optimizer and state of an undisturbed run, to the byte.
"""
