"""What is measured of trained networks: attention on objects, cost, linear probes, class maps, weights of terms."""
