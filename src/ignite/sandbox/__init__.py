"""What stands between a tenant's code and the machine: namespaces, uids, seccomp, cgroups.

Knows no replica and no build; the spawner says what to run, this package says in what.
"""
