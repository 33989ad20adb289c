"""A demonstration on a space of the Hugging Face hub: everybody may sample from one model.

The hub gives a space its name in SPACE_HOST and shows it behind a proxy that encrypts. Without SPACE_HOST, as on a
machine of one's own, the page asks for the token that is printed. MODEL is a run: a folder of the space, or
hub:owner/name.

    python examples/space/app.py
"""

import os
import sys

from fromnoise.cli import main

MODEL = os.environ.get("MODEL", "model")
words = ["web", MODEL, "--demo", "--host", "0.0.0.0", "--port", os.environ.get("PORT", "7860")]
if "SPACE_HOST" in os.environ:
    words += ["--public", os.environ["SPACE_HOST"]]
sys.exit(main(words))
