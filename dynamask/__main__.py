import sys

from dynamask.cli import main

sys.exit(main())
