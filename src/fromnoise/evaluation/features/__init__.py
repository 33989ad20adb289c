"""Feature extractors: pixels, networks trained on the data set, and pretrained networks."""
