"""Images, plots and documents that the other packages write."""
