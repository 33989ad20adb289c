"""``fromnoise import``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fromnoise.cli import component_flags

HELP = "import a model of another program"
EPILOG = """the result is a run directory, which every verb takes. A pickle (.pt, .bin) is read by this verb
alone, without calling the functions that it names.

examples:
  fromnoise import ~/models/ddpm-cifar10-32 --out runs/cifar10
  fromnoise import hub:google/ddpm-cifar10-32 --out runs/cifar10"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    import fromnoise.interop  # noqa: F401  registers the importers

    add = parser.add_argument
    add("source", metavar="SOURCE", help="a folder or file with the model, or hub:owner/name")
    add("--out", metavar="RUN", type=Path, required=True, help="run directory of the imported model, or a .safetensors")
    add(
        "--value-range",
        metavar="LOW,HIGH",
        help="smallest and largest pixel value of the images that the network was trained on; -1,1 if left out; "
        "a negative LOW is written --value-range=-0.5,0.5",
    )
    component_flags.add_flag(parser, "importer", "--format", "its format; recognized if left out")
    parser.epilog = f"{component_flags.add_list_of_components('importer')}\n\n{EPILOG}"


def run(args: argparse.Namespace) -> int:
    """Import."""
    from fromnoise import interop
    from fromnoise.interop.importing import check_out

    check_out(args.out)
    options = component_flags.given_options(args, "importer")
    value_range = parse_range(args.value_range) if args.value_range is not None else (-1.0, 1.0)
    imported = interop.import_model(
        args.source, args.format, options, value_range=value_range, read_pickles=True, on_notice=print
    )
    for note in imported.notes:
        print(note)
    imported.save(args.out)
    model = imported.model
    shape = "x".join(map(str, model.dataset_info.shape))
    recipe = model.recipe
    network = f"network {recipe.network.kind}"
    if recipe.autoencoder is not None:
        network = f"autoencoder {recipe.autoencoder.kind}"
    print(f"{args.out}: {imported.format}, {network}, {model.parameters:,} parameters, {shape}")
    return 0


def parse_range(text: str) -> tuple[float, float]:
    """Two increasing numbers, separated by a comma.

    Raises:
        UserError: the text is something else.
    """
    from fromnoise.utils.errors import UserError

    try:
        low, high = map(float, text.split(","))
        if low < high:
            return low, high
    except ValueError:
        pass
    raise UserError(f"--value-range {text} must be two increasing numbers: write it as 0,1")
