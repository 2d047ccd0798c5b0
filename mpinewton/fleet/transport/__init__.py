"""What knows ranks: MPI, the driver's end, the serving ranks, and how a process finds out which it is."""
