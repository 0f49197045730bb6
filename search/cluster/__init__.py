"""Ray itself: connecting, authentication, nodes, jobs and preemption."""
