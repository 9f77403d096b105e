"""JAX: sharded arrays in, sharded arrays out, from any number of processes and to any other mesh."""
