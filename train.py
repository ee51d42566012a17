from mvdiff.cli.main import main

raise SystemExit(main())
