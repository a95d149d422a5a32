"""``fusedstep bench``: fusedstep beside its peers, in turn, in one process, after a check that both computed the same.

table.py    a work, its row, how rows are printed and stored
timing.py   times in turn by the host's clock; the processor
device.py   times in turn by CUDA events; the GPU
loops.py    loops of the same traffic, compiled
cpu.py      the works of ``--device cpu``
steps.py    the optimizer steps of ``--device cuda``
layers.py   batch norm and dropout of ``--device cuda``
command.py  the subcommand
"""
