"""`python -m fastforget` is the command `fastforget`."""

from fastforget.cli import main

main()
