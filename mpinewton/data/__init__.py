"""From text files and arrays to one HDF5 shard per logical worker."""
