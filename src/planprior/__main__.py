"""`python -m planprior` is `planprior`."""

from planprior.cli import main

if __name__ == "__main__":
    main()
