"""The subcommands ``fusedstep train`` and ``fusedstep predict``."""
