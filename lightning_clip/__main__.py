"""`python -m lightning_clip COMMAND ...`, the same as `lightning-clip COMMAND ...`, as `torchrun -m` asks for it."""

import sys

from lightning_clip.cli import main

if __name__ == "__main__":
    sys.exit(main())
