"""The front door: `python app.py` serves the page, `python app.py --help` lists the other commands."""

from app.cli import main

if __name__ == "__main__":
    main()
