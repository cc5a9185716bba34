"""CIFAR networks, a file for each family."""
