"""Sorting images into clusters by variational EM over a conditional diffusion model: who belongs where, and a generator each.

The two steps are in ``diffusion/membership.py``; here is what they start from, the loop, and what is made of the result.
"""
