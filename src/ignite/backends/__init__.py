"""Runtime backends of one machine: how Workloads become replicas."""
