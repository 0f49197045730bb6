"""``python -m search.cli``: the command line where its script is not installed."""

from search.cli.start import main

main()
