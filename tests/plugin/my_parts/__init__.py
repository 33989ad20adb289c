"""A plug-in with one file for each part; the tests copy it out of the checkout."""

from fromnoise.registry import import_submodules

import_submodules(__name__, __path__)
