"""`python -m lite_huatuo`: the command line, as launchers start it."""

from lite_huatuo.cli.main import main

if __name__ == "__main__":
    main()
