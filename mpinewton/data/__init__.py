"""Text files, tables and arrays to one HDF5 shard per logical worker, and back."""
