"""``python -m stillhouse.search.cli``: the command line where its script is not installed."""

from stillhouse.search.cli.start import main

main()
