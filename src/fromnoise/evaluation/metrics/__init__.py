"""What can be said of samples in numbers: features, distances, copies, coverage."""
