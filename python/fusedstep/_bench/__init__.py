"""``fusedstep bench``: fusedstep beside its peers, in turn, in one process, after a check that both computed the same.

table.py       a work, its row, how rows are printed and stored
timing.py      times in turn by the host's clock; the processor
device.py      times in turn by CUDA events; the GPU
loops.py       loops of the same traffic, compiled
peers.py       peers that may be missing
kernels.py     the table `kernels` of the processor: optimizer steps, norm, dropout
batch_norm.py  batch norm in it
trial.py       a kernel at a size, and in other settings of threads and instruction sets
steps.py       the optimizer steps of ``--device cuda``
layers.py      batch norm and dropout of ``--device cuda``
plot.py        throughput by size as a picture
command.py     the subcommand
"""
