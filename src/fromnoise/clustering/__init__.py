"""Sorting images by variational EM over a conditional diffusion model: who belongs where, and a generator for each.

The two steps are in ``diffusion/membership.py``; here is what they start from, the loop, and what is made of the end.
"""
