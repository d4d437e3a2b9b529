"""What scripts/chaos runs: hosts in network namespaces, a load, faults, and a count of it all."""
