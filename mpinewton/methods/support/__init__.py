"""What methods share: the base class, worker tasks, line searches, solvers, schedules."""
