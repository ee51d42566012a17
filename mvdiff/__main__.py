"""`python -m mvdiff` and `torchrun -m mvdiff`: the `mvdiff` command."""

from mvdiff.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
