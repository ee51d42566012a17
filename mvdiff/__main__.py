"""`python -m mvdiff` and `torchrun -m mvdiff`: the `mvdiff` command."""

from mvdiff.cli.main import main

raise SystemExit(main())
