"""The gpuworker: the program inside a Slurm job that hosts models. Imports nothing of the portal."""
