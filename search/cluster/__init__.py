"""Ray itself: connection, authentication, nodes, jobs, preemption and Ray's private API."""
