"""Models of other programs: import and export.

An import is a recipe and weights. An importer, one file a foreign format, translates the foreign configuration into the
values of a recipe (network, schedule, target, sampling) and the foreign weights into those of a network of
``fromnoise.networks``; ``import_model`` builds that model, checks that the weights fit it, and loads them. What the
recipe cannot say is refused in one line that names the option: nothing is approximated without a note.

An export is the reverse: an exporter, one file a format, writes a model for other programs, or says in one line why it
cannot be written exactly.

Where a foreign network has layers that ours do not have, it is a network kind of its own (``networks/``), whose weights
keep the foreign names: it is trained, sampled, evaluated and exported like every other.

    @register("importer", "my-format")
    @dataclass(frozen=True)
    class MyFormat(Importer):
        \"\"\"First line: its help. An Attributes section: its options, which are flags of ``fromnoise import``.\"\"\"
"""

from fromnoise.interop.exporting import Exporter, export_model
from fromnoise.interop.importing import Imported, ImportedModel, Importer, find, import_model, is_foreign
from fromnoise.interop.source import Source
from fromnoise.registry import import_submodules

import_submodules(__name__, __path__)

__all__ = [
    "Exporter",
    "Imported",
    "ImportedModel",
    "Importer",
    "Source",
    "export_model",
    "find",
    "import_model",
    "is_foreign",
]
