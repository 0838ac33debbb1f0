"""`python -m hsmvault.cli`: the command line where no script was installed."""

from hsmvault.cli.main import main

main()
