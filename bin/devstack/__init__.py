"""The development stack: private PostgreSQL, Redis and Slurm for the demo, the tests and the benches.

Standard library only, because it runs under the system's python3 (3.11 or later) before any environment
exists. Everything listens on free ports of 127.0.0.1 only, or of a network that exists for this run only (as root the
nodes of a cluster are hosts of their own, `devstack.hosts`), keeps its files in the folder it was given, and
ends with the program that started it, even after kill -9. As a library, with `bin/` on `sys.path` (each is a
context manager too):

    postgres = Postgres(folder / "postgres", durable=False).start()  # devstack.postgres; then postgres.dsn
    redis = Redis(folder / "redis").start()  # devstack.redis; redis.url, kill(), start_server()
    slurm = Slurm(folder / "slurm", SlurmSpec(nodes=2)).start()  # devstack.slurm, devstack.slurmconf
    os.environ.update(slurm.env())  # SLURM_CONF; then sbatch, squeue, ... or slurm.run("squeue")
    slurm.stop_controller(); slurm.start_controller(); slurm.node_down("gpu01"); slurm.node_up("gpu01")
    postgres.stop(); redis.stop(); slurm.stop()  # no process, job or port is left

By hand: `PYTHONPATH=bin python3 -m devstack [postgres] [redis] [slurm]` starts them, prints the environment
variables to export, and stops them at Ctrl-C. A `Slurm` comes up in under a second, so a test module can have
one of its own.
Their programs come from Debian packages: `bin/test` and `bin/demo` install them (`devstack.apt`).
"""
