"""Image clustering by variational EM with a conditional diffusion model, which also learns to generate each cluster.

The equations of both steps are in ``diffusion/likelihood/e_step.py``; this package has the initialization, the EM loop,
split-and-merge moves, the choice of the number of clusters, and the results.
"""
