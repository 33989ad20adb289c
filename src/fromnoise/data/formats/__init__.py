"""The file formats of the package, one module each; a new module is found by itself."""

from __future__ import annotations

from fromnoise import registry

registry.import_submodules(__name__, __path__)
